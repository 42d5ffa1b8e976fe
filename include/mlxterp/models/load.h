// mlxterp/models/load.h: a checkpoint's weights into a Decoder.

#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/models/family.h"

namespace mlxterp {

struct LoadOptions {
  /** Precision of the weights. Absent: float32 on a CPU, where it is by far the
   * fastest; the file's own on a GPU. */
  std::optional<mlx::core::Dtype> dtype = std::nullopt;
  /** Keep matrices packed that the checkpoint keeps packed (nn/matrix.h); if
   * there are none, `warn` hears so. Absent: on a GPU; on a CPU, where unpacked
   * ones are several times as fast, only if those would not fit. */
  std::optional<bool> packed = std::nullopt;
  /** Leave matrices in the half precision that the file has them in, to be
   * computed with in `dtype` where that is float32 (nn/matrix.h): half of the
   * memory, and the same numbers. What is quantised goes by `packed`. If the
   * file has none, `warn` hears so. */
  bool half = false;
  /** Your own, looked through before the built-in ones. */
  std::vector<Family> families = {};
  Progress progress = {};
  Warn warn = {};  ///< Gets Checkpoint::warnings().
  /** Take weights that are NaN or infinite as they are, to look into a model
   * that is broken. */
  bool allow_not_finite = false;
};

/** What its Decoder is made of: config.json, and the tensors where that is
 * silent. `own`: as LoadOptions::families. Throws bad_data. */
DecoderConfig config_of(
    const Checkpoint& checkpoint, std::span<const Family> own = {});

/** Throws what load_decoder would of the names and shapes of the tensors,
 * without reading a weight. */
void check_tensors(
    const Checkpoint& checkpoint, std::span<const Family> own = {});

/**
 * Builds the checkpoint's Decoder and reads every weight, evaluated. Throws
 * bad_data for a tensor that is missing, superfluous, of another shape than
 * the config says, there twice under two names, or holds NaN or Inf (unless
 * they are allowed); environment: too little memory, or a BLAS that is wrong.
 */
std::shared_ptr<Decoder> load_decoder(
    const Checkpoint& checkpoint, const LoadOptions& options = {});

}  // namespace mlxterp
