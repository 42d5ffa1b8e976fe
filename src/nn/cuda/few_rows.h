// nn/cuda/few_rows.h: some rows times a matrix on a CUDA GPU, where a BLAS
// needs three times what reading the matrix takes.

#pragma once

#include <optional>

#include "mlx/array.h"

namespace mlxterp::cuda {

/** x w^T, [..., columns] and [rows, columns] to [..., rows], all in bfloat16,
 * summed in float32; none where it has no kernel for these: it takes 2 to 32
 * rows of x, of which nobody derives. */
std::optional<mlx::core::array> few_rows(
    const mlx::core::array& x, const mlx::core::array& w);

}  // namespace mlxterp::cuda
