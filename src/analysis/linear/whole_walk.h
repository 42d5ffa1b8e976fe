// analysis/linear/whole_walk.h: the walk down of a few rows, in one piece.

#pragma once

#include <vector>

#include "analysis/linear/walk_down.h"

namespace mlxterp {

/** Whether walk_whole() is the better way for so many rows of prompts of so
 * many positions: few rows on a CPU, no experts (MLX cannot map their products
 * over rows), and what is kept of a pass takes at most `memory` bytes. */
bool walks_whole(
    const InterpretableModel& model, int rows, int positions, size_t memory);

/** The gradients of walk_down(), of each of `layers` (which ascend and end
 * before the last) [row, pos, d_model] float32: the model is differentiated as
 * a whole, run forward once for all rows. Lazy. */
std::vector<mlx::core::array> walk_whole(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const HeldSites& held,
    const mlx::core::array& rows,
    PositionRange at,
    const std::vector<int>& layers);

}  // namespace mlxterp
