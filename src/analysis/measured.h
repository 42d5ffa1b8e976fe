// analysis/measured.h: the metric of a batch of runs, from their residual
// stream.

#pragma once

#include <optional>
#include <vector>

#include "analysis/readout.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** The metric of each row of x, [row, pos, d_model] behind the last layer, all
 * of a prompt of these ids: float32 [row]. `reference`: the logits that a KL
 * divergence starts from. `observer` sees
 * what the head makes of the positions it reads. Lazy. */
mlx::core::array measured(
    const InterpretableModel& model,
    const mlx::core::array& x,
    const std::vector<int>& ids,
    const Readout& metric,
    const std::optional<mlx::core::array>& reference,
    Observer* observer = nullptr);

/** The logits of x, of prompts of n tokens, at the one position that the metric
 * reads: [row, column], float32. Lazy. */
mlx::core::array logits_at_end(
    const InterpretableModel& model,
    const mlx::core::array& x,
    int n,
    const Readout& metric,
    Observer* observer = nullptr);

}  // namespace mlxterp
