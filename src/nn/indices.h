// nn/indices.h: indices held against what they pick from, since MLX does not:
// one outside is a crash, or the memory of something else.

#pragma once

#include <cstdint>
#include <optional>

#include "mlx/array.h"

namespace mlxterp::nn {

/** The first of `indices` that is not in [0, size). Looks only where that takes
 * no work: at those evaluated already, as a prompt's are, and as an edited site
 * of integers is (see TraceContext). Others are sums of our own. */
std::optional<int64_t> outside(const mlx::core::array& indices, int size);

}  // namespace mlxterp::nn
