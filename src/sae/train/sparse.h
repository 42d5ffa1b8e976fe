// sae/train/sparse.h: activations of which few are not 0, as places and values,
// and products with them: on a CPU loops of our own, else MLX's operations.

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "mlx/array.h"

namespace mlxterp::sae_train {

/** int32 `rows`, ascending, and `cols`, float32 `values`: all [n], evaluated on
 * a CPU. */
struct Sparse {
  mlx::core::array rows, cols, values;

  int size() const { return values.shape(0); }
};

/** How they are computed. */
enum class Engine {
  loops,  ///< On the CPU, by all cores; evaluates.
  ops,    ///< MLX's, lazy: any device.
};

/** Loops where MLX computes on a CPU. */
Engine default_engine();

/** The k largest of each row of [rows, features]; of equal ones, on a CPU, the
 * first. `among`: of these columns alone, ascending. */
Sparse top_of_rows(
    const mlx::core::array& pre,
    int k,
    const std::optional<std::vector<int>>& among,
    Engine engine);

/** The n largest of all that are above 0; with `ops` always n, and the ones
 * below are 0. */
Sparse top_of_all(const mlx::core::array& pre, int64_t n, Engine engine);

/** Those with begin <= column < end; with `ops` the values of others are 0. */
Sparse columns(const Sparse& all, int begin, int end, Engine engine);

/** sum_i values_i W[cols_i] into each row: [rows, d] of W [features, d]. */
mlx::core::array decode(
    const Sparse& acts, const mlx::core::array& W, int rows, Engine engine);

/** G[rows_i] . W[cols_i], [n], of G [rows, d] and W [features, d]. */
mlx::core::array dots(
    const Sparse& at,
    const mlx::core::array& G,
    const mlx::core::array& W,
    Engine engine);

/** sum_i values_i G[rows_i] into each feature: [features, d] of G [rows, d]. In
 * the order of the rows, whatever the number of threads. */
mlx::core::array outer(
    const Sparse& at, const mlx::core::array& G, int features, Engine engine);

/** sum_i values_i of each feature: [features]. */
mlx::core::array sums(const Sparse& at, int features, Engine engine);

/** A float32 array that owns new memory, to be filled before it is used. */
mlx::core::array filled_later(mlx::core::Shape shape);

}  // namespace mlxterp::sae_train
