// sae/train/sparse_ops.h: the same as sparse.h says, by MLX's operations.

#pragma once

#include "sae/train/sparse.h"

namespace mlxterp::sae_train::ops {

Sparse top_of_rows(
    const mlx::core::array& pre,
    int k,
    const std::optional<std::vector<int>>& among);
Sparse top_of_all(const mlx::core::array& pre, int64_t n);
Sparse columns(const Sparse& all, int begin, int end);
mlx::core::array decode(
    const Sparse& acts, const mlx::core::array& W, int rows);
mlx::core::array dots(
    const Sparse& at, const mlx::core::array& G, const mlx::core::array& W);
mlx::core::array outer(
    const Sparse& at, const mlx::core::array& G, int features);
mlx::core::array sums(const Sparse& at, int features);

}  // namespace mlxterp::sae_train::ops
