// sae/train/sparse.h: activations of which few are not 0, as places and values,
// and products with them. Matrices are float32 or bfloat16, sums float32.

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
  ops,    ///< Lazy, on any device: kernels of our own, or MLX's operations.
};

/** Loops where MLX computes on a CPU. */
Engine default_engine();

/** What is chosen from: the largest of `pre` [rows, features], or of `pre`
 * times `by` [features]. */
struct Ranked {
  mlx::core::array pre;
  std::optional<mlx::core::array> by;
  mlx::core::array rank;  ///< What is compared; lazy.

  explicit Ranked(
      mlx::core::array pre, std::optional<mlx::core::array> by = {});
};

/** `pre` where each row has its k largest; of equal ones, but for MLX's own
 * operations, the first. `among`: of these columns alone, ascending. */
Sparse top_of_rows(
    const Ranked& from,
    int k,
    const std::optional<std::vector<int>>& among,
    Engine engine);

/** The n largest of all that are above 0, and what was compared there; with
 * `ops` always n, and the ones below are 0. */
Sparse top_of_all(const Ranked& from, int64_t n, Engine engine);

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

/** Places by feature, int32: `order` [n], those of a feature in the order of
 * the rows and from begin[f] on; `begin` [features + 1]. */
struct ByFeature {
  mlx::core::array order, begin;

  int features() const { return begin.shape(0) - 1; }
};
ByFeature by_feature(const Sparse& at, int features, Engine engine);

/** sum_i values_i G[rows_i] into each feature: `rows` [features, d] of
 * G [rows, d], and of the values alone, `values` [features]. In the order of
 * the rows, whatever the number of threads. */
struct FeatureSums {
  mlx::core::array rows, values;
};
FeatureSums outer(
    const Sparse& at,
    const ByFeature& places,
    const mlx::core::array& G,
    Engine engine);

/** sum_i values_i of each feature: [features]. */
mlx::core::array sums(const Sparse& at, int features, Engine engine);

/** A float32 array that owns new memory, to be filled before it is used. */
mlx::core::array filled_later(mlx::core::Shape shape);

}  // namespace mlxterp::sae_train
