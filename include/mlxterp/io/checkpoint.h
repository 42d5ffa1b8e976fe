// mlxterp/io/checkpoint.h: a model on disk, whatever its format.

#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/io/packed.h"
#include "mlxterp/io/tensor_info.h"

namespace mlxterp {

class Gguf;
class TensorMemory;

/** What of a checkpoint is no part of its language model. */
struct LeftOut {
  std::string part;  ///< "vision", "audio", "projector" or "draft".
  size_t tensors = 0;
  uint64_t bytes = 0;
};

/**
 * A `.gguf` file or a Hugging Face folder (config.json and one safetensors
 * file, or an index with shards). Both speak the Hugging Face vocabulary: a
 * GGUF's metadata becomes a config.json, its tensors get their checkpoint
 * names (`blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`)
 * and Llama's permuted q and k rows are put back. A matrix that MLX packed in a
 * folder (X.weight, X.scales, X.biases) is one tensor here, X.weight, with its
 * unpacked shape; so is one in MXFP4 (X_blocks, X_scales). Of a multimodal
 * folder, whose config.json nests that of its language model in `text_config`,
 * that model is all there is here, under the names it has alone.
 *
 * A cheap handle on shared, immutable state; const members may be called from
 * several threads. Everything throws Error (bad_data, environment).
 */
class Checkpoint {
 public:
  /** Opens and checks every file of it; reads no weights yet. */
  static Checkpoint open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;

  /** The text of config.json, that of the language model where it nests one,
   * or its equivalent made from GGUF metadata. */
  const std::string& config() const;

  /** Every tensor, by its checkpoint name, in the file's order. */
  const std::vector<TensorInfo>& tensors() const;

  /** What of it is not read, by part: vision and audio towers and what joins
   * them to the language model, draft layers. */
  const std::vector<LeftOut>& left_out() const;

  /** What is unusual about it but does not prevent reading it, a sentence
   * each: matrices of nothing but zeros, an index that gives another size.
   * Reads the first bytes of each matrix, and all of those that are zeros. */
  std::vector<std::string> warnings() const;

  /** The tensor of that name, or nullptr. */
  const TensorInfo* find(const std::string& name) const;

  /** Copies a tensor into memory, evaluated, as `dtype` (where it is absent:
   * the file's own precision, float16 for quantised GGUF tensors, that of the
   * scales for MLX's). Integers
   * keep their type. Throws bad_data on NaN or Inf, with name and count,
   * unless `allow_not_finite`. With `memory` it may lie there, beside the other
   * tensors of a model; that is for one thread. */
  mlx::core::array read(
      const TensorInfo& tensor,
      std::optional<mlx::core::Dtype> dtype = std::nullopt,
      bool allow_not_finite = false,
      TensorMemory* memory = nullptr) const;

  /** Whether read_packed has it: a matrix that MLX packed, in MXFP4 blocks, or
   * of a GGUF type that is a scale and a bias of each 32 integers. */
  bool is_packed(const TensorInfo& tensor) const;

  /** Such a matrix as MLX has it; absent for any other tensor, or where
   * float16 does not hold what it would need. Throws as read(). */
  std::optional<Packed> read_packed(
      const TensorInfo& tensor, bool allow_not_finite = false) const;

  /** The GGUF file behind it, or nullptr. */
  const Gguf* gguf() const;

  struct Files;  // private to checkpoint.cpp

 private:
  std::shared_ptr<const Files> files_;
};

}  // namespace mlxterp
