// nn/product.h: products with weights, x W^T. On a CPU few rows go through a
// loop of our own, which reads W once and takes it in half precision, too.

#pragma once

#include "mlx/array.h"

namespace mlxterp::nn {

/** x W^T, [..., columns] and W [rows, columns] to [..., rows], of x's dtype. W
 * in half precision meets a float32 x in float32: widened as it is read where
 * rows are few, else as a lazy part of the graph. */
mlx::core::array product(const mlx::core::array& x, const mlx::core::array& w);

/** Whether `product` would read W of a half precision as it lies. */
bool reads_once(const mlx::core::array& x, const mlx::core::array& w);

/** Each row through its own of a stack of matrices [matrix, rows, columns]: x
 * [batch, pos, k or 1, 1, columns] and which, [batch, pos, k], to [batch, pos,
 * k, 1, rows]. `which` must be in range. */
mlx::core::array product_of_each(
    const mlx::core::array& x,
    const mlx::core::array& stack,
    const mlx::core::array& which);

}  // namespace mlxterp::nn
