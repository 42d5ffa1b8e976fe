// sae/train/adam.h: Adam as torch has it (Kingma & Ba 2015, arXiv 1412.6980).

#pragma once

#include <cstdint>

#include "mlx/array.h"
#include "sae/train/sparse.h"

namespace mlxterp::sae_train {

struct AdamOptions {
  double rate = 0, beta1 = 0, beta2 = 0, epsilon = 0;
  int64_t step = 0;  ///< From 1 on.
};

/** A parameter and its moments, float32 of one shape. */
struct Moved {
  mlx::core::array parameter, first, second;
};

/** With loops all in one pass over memory; the arrays given stay as they are.
 * `factor` multiplies the gradient. */
Moved adam(
    const Moved& from,
    const mlx::core::array& gradient,
    float factor,
    const AdamOptions& options,
    Engine engine);

/** Without each row's part along `rows`, [n, d] both. Lazy. */
mlx::core::array without_parallel(
    const mlx::core::array& gradient, const mlx::core::array& rows);

/** Rows of length 1; ones of length 0 stay. Lazy. */
mlx::core::array with_unit_rows(const mlx::core::array& rows);

}  // namespace mlxterp::sae_train
