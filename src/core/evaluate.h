// core/evaluate.h: an evaluation that can be ended.

#pragma once

#include <functional>
#include <vector>

#include "mlx/array.h"

namespace mlxterp {

/** mx::eval of these in pieces, so that memory for what is to come is not taken
 * all at once. On a CPU `between` is called after every piece, which takes a
 * noticeable time; what it throws ends the evaluation. MLX itself works through
 * a graph without looking up. Nothing is computed that the values do not need.
 */
void evaluate(
    std::vector<mlx::core::array> values, const std::function<void()>& between);

}  // namespace mlxterp
