// analysis/steered_runs.h: many runs of one prompt that differ by what is added
// to the residual stream behind one layer.

#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** What is added behind a layer, to layers.N.resid_post. */
struct Push {
  int layer = 0;
  mlx::core::array vector;  ///< [d_model], float32.
};

/**
 * Walks up the layers once with all runs: each joins behind its layer, as a row
 * of a batch whose first row is the run that nothing is added to. A chunk of
 * them at a time, so that memory is bounded; `read` is given the number of the
 * chunk's first push and what its rows leave behind the last layer, [1 + run,
 * pos, d_model]. A Decoder only.
 */
struct SteeredRuns {
  const InterpretableModel& model;
  const std::vector<int>& ids;
  const std::vector<Push>& pushes;  ///< Layers in ascending order.
  /** Where it is added, [pos, 1] of 0 and 1; nothing: everywhere. */
  std::optional<mlx::core::array> mask = {};
  std::function<void(double done)> progress = {};

  /** Evaluates. Returns how many positions were computed, over layers. */
  size_t walk(
      const std::function<void(size_t first, const mlx::core::array& x)>& read)
      const;
};

}  // namespace mlxterp
