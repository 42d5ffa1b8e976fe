// sae/cuda/sparse_rows.h: the k largest of rows and sums of chosen rows on a
// CUDA GPU, where MLX sorts whole rows and holds every chosen one. Of matrices
// in float32 or bfloat16; sums are float32, and the same bits each time. None
// where there is no kernel for these.

#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "mlx/array.h"

namespace mlxterp::cuda {

/** Of each row of pre [rows, width] the k largest of pre * by (absent: of pre),
 * the largest first, of equal ones the first: int32 columns and float32 numbers
 * of pre, [rows * k]. k is 1024 at most. */
std::optional<std::pair<mlx::core::array, mlx::core::array>> top_of_rows(
    const mlx::core::array& pre,
    int k,
    const std::optional<mlx::core::array>& by);

/** The n largest of all of pre [rows, width] * by, ascending by place, those
 * below 0 as 0; of equal ones the first: int32 rows and columns, and float32
 * pre * by, [n] each. */
std::optional<std::vector<mlx::core::array>> top_of_all(
    const mlx::core::array& pre,
    int n,
    const std::optional<mlx::core::array>& by);

/** sum_i values_i W[cols_i] into row rows_i, which ascend: [n_rows, d]. */
std::optional<mlx::core::array> decode(
    const mlx::core::array& rows,
    const mlx::core::array& cols,
    const mlx::core::array& values,
    const mlx::core::array& W,
    int n_rows);

/** sum_i values_i G[rows_i] into each feature, [features, d], and
 * sum_i values_i, [features]; `order` of the places, those of feature f from
 * begin[f] on. */
std::optional<std::pair<mlx::core::array, mlx::core::array>> outer(
    const mlx::core::array& rows,
    const mlx::core::array& values,
    const mlx::core::array& order,
    const mlx::core::array& begin,
    const mlx::core::array& G);

/** G[rows_i] . W[cols_i], [n]. */
std::optional<mlx::core::array> dots(
    const mlx::core::array& rows,
    const mlx::core::array& cols,
    const mlx::core::array& G,
    const mlx::core::array& W);

}  // namespace mlxterp::cuda
