// sae/train/sparse_ops.h: the same as sparse.h says, lazy.

#pragma once

#include "sae/train/sparse.h"

namespace mlxterp::sae_train::ops {

Sparse top_of_rows(
    const Ranked& from, int k, const std::optional<std::vector<int>>& among);
Sparse top_of_all(const Ranked& from, int64_t n);
Sparse columns(const Sparse& all, int begin, int end);
mlx::core::array decode(
    const Sparse& acts, const mlx::core::array& W, int rows);
mlx::core::array dots(
    const Sparse& at, const mlx::core::array& G, const mlx::core::array& W);
ByFeature by_feature(const Sparse& at, int features);
FeatureSums outer(
    const Sparse& at, const ByFeature& places, const mlx::core::array& G);
mlx::core::array sums(const Sparse& at, int features);

}  // namespace mlxterp::sae_train::ops
