// analysis/linear/walk_down.h: rows of cotangents on their way down a prompt's
// layers.

#pragma once

#include <functional>

#include "analysis/linear/linear_run.h"

namespace mlxterp {

/** Positions [from, to) of a prompt. */
struct PositionRange {
  int from = 0, to = 0;
};

/**
 * Rows that say at every position of `at` what of the last layer's output is
 * differentiated, [row, d_model] float32, and no other position: behind each
 * layer, from the last but one down to `lowest`, `read` gets what they have
 * become, [pos, row, d_model] at those positions: the gradient by what leaves
 * the layer. Rows of the same walk come in pieces where all take more than
 * `memory` bytes; `read` is told where the piece begins.
 */
void walk_down(
    const LinearRun& run,
    const mlx::core::array& rows,
    PositionRange at,
    int lowest,
    size_t memory,
    const std::function<
        void(int layer, int first_row, const mlx::core::array& rows)>& read);

}  // namespace mlxterp
