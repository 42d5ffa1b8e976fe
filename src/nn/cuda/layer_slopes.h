// nn/cuda/layer_slopes.h: what a linearised layer does between its products, on
// a CUDA GPU in one kernel each. None where there is no kernel for these.

#pragma once

#include <optional>

#include "mlx/array.h"

namespace mlxterp::cuda {

/** A norm's derivative at each position, of t: with t = rows gain
 *   inverse (t - normalized mean(t normalized) - mean(t)),
 * the last mean of `centred` norms. */
struct NormDerivative {
  mlx::core::array normalized;  ///< [pos, d]
  bool centred = false;
  std::optional<mlx::core::array> gain = {};     ///< [d]; absent: 1.
  std::optional<mlx::core::array> inverse = {};  ///< [pos, 1]; with a gain.
};

/** Of rows [pos, row, d], in `to`: float32 as it is or in bfloat16, or, where
 * there is something [pos, row, d] to add it `onto`, both as float32. */
std::optional<mlx::core::array> norm_slope(
    const NormDerivative& norm,
    const mlx::core::array& rows,
    mlx::core::Dtype to,
    const std::optional<mlx::core::array>& onto = {});

/** a [pos, f] times the rows of up [f, d], and b [pos, f] times those of gate
 * [f, d] added: [pos, f, d], all bfloat16. */
std::optional<mlx::core::array> scaled_rows(
    const mlx::core::array& a,
    const mlx::core::array& up,
    const std::optional<mlx::core::array>& b,
    const std::optional<mlx::core::array>& gate);

}  // namespace mlxterp::cuda
