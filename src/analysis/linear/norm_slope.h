// analysis/linear/norm_slope.h: a norm's derivative where a prompt stands.

#pragma once

#include "mlx/array.h"

namespace mlxterp {

/** At each position: with dy times the gain,
 * (t - mean(t) - normalized mean(t normalized)) / scale, the first mean of
 * layer norms only. */
struct NormSlope {
  mlx::core::array gain;        ///< [d]
  mlx::core::array normalized;  ///< [pos, d]
  mlx::core::array inverse;     ///< [pos, 1], 1 / scale.
  bool centred = false;
};

/** Rows [pos, row, d] of what leaves a norm to those of what enters it, in
 * `to`.
 */
mlx::core::array back(
    const NormSlope& it, const mlx::core::array& rows, mlx::core::Dtype to);

/** The columns that a norm's derivative takes away, [pos, d, k] with k 1 or 2,
 * and they again / -d, [pos, k, d]: t - t c c^T / d. */
struct Columns {
  mlx::core::array c, away;
};
Columns columns_of(const NormSlope& it, mlx::core::Dtype dtype);

/** `onto` and rows [pos, row, d], whose products had the gain and the scale in
 * them, less what the norm takes away. */
mlx::core::array added_through(
    const NormSlope& it,
    const mlx::core::array& rows,
    const mlx::core::array& onto);

}  // namespace mlxterp
