// core/evaluate.h: an evaluation that can be ended.

#pragma once

#include <functional>
#include <vector>

#include "mlx/array.h"

namespace mlxterp {

/** mx::eval of these, which on a CPU calls `between` after every piece of work
 * that takes a noticeable time; what it throws ends the evaluation. MLX itself
 * works through a graph without looking up. Nothing is computed that the values
 * do not need. Empty: plain mx::eval. On a GPU it waits for what runs before it
 * takes much memory for what is to come. */
void evaluate(
    std::vector<mlx::core::array> values, const std::function<void()>& between);

}  // namespace mlxterp
