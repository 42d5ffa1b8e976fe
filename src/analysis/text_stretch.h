// analysis/text_stretch.h: a text as lenses read it: the residuals of each
// layer, and logits of them, a piece of the vocabulary's size at a time.

#pragma once

#include <cstddef>
#include <vector>

#include "mlxterp/trace/model.h"

namespace mlxterp {

/** A stretch of text as the model sees it. */
struct Stretch {
  std::vector<mlx::core::array> residuals;  ///< Of each layer, [pos, d_model].
  std::vector<int> ids;
  int length = 0;
};

/** What each layer leaves in the residual stream, lazy. */
Stretch read_stretch(const InterpretableModel& model, std::vector<int> ids);

/** Positions [from, to) of x [pos, ...]. */
mlx::core::array rows(const mlx::core::array& x, int from, int to);

/** Logits of residuals in the model's dtype, [pos, d_model] and not more of
 * them than the stretch has, as float32; lazy. */
mlx::core::array logits_of(
    const InterpretableModel& model,
    const Stretch& stretch,
    const mlx::core::array& h);

/** How many positions' logits are held at a time. */
int chunk_of(const InterpretableModel& model);

/** Throws usage where a stretch is too short or longer than the context. */
void check_stretch(
    const InterpretableModel& model, int length, const char* function);

/** W h + b, in float32. */
mlx::core::array translated(
    const mlx::core::array& h,
    const mlx::core::array& weight,
    const mlx::core::array& bias);

}  // namespace mlxterp
