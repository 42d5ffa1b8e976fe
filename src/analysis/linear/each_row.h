// analysis/linear/each_row.h: a derivative's rows, run through it at once or
// one by one.

#pragma once

#include <functional>
#include <vector>

#include "mlxterp/models/decoder.h"

namespace mlxterp {

/** From rows [row, ...] to rows [row, ...]. */
using EachRow = std::function<std::vector<mlx::core::array>(
    const std::vector<mlx::core::array>& rows)>;

/** Whether a layer's derivative can be mapped over rows, so that the layer runs
 * forward once for all of them: MLX cannot map the product of chosen experts,
 * nor on a GPU those of packed weights. */
bool maps_rows(const DecoderLayer& layer);

/** `back` of all rows at once, or, `mapped`, of each as one, so that what does
 * not depend on it is there once. Lazy. */
std::vector<mlx::core::array> each_row(
    const EachRow& back,
    const std::vector<mlx::core::array>& rows,
    bool mapped);

}  // namespace mlxterp
