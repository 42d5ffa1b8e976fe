// nn/indices.h: indices held against what they pick from, since MLX does not:
// one outside is a crash, or the memory of something else.

#pragma once

#include <cstdint>
#include <optional>

#include "mlx/array.h"

namespace mlxterp::nn {

/** The first of `indices` that is not in [0, size). Looks at none that are not
 * evaluated: a prompt's are, and so are those of an edited site (TraceContext
 * sees to it); others are of a module's own making. */
std::optional<int64_t> outside(const mlx::core::array& indices, int size);

}  // namespace mlxterp::nn
