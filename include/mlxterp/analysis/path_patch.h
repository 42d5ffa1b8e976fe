// mlxterp/analysis/path_patch.h: effects along paths between components.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/analysis/metric.h"
#include "mlxterp/analysis/sweep.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** What a head reads of the residual stream, as its query, key or value. */
struct Receiver {
  enum class Input { q, k, v };
  int layer = 0;  ///< Negative: from the last.
  int head = 0;   ///< Of k and v: the kv head.
  Input input = Input::q;
};

struct PathPatchOptions {
  /** One prompt or several; pairs of one length. */
  Inputs clean, corrupt;
  /** Empty: the logits. */
  std::vector<Receiver> receivers = {};
  /** Senders: heads ("z", by layer and head) or MLPs ("mlp_out", by layer). */
  std::string senders = "z";
  /** Whether the path may go through MLPs; if not, it is direct. */
  bool through_mlps = true;
  Metric metric = {};  ///< Must be given.
  /** noise: the sender as in the corrupted run, all else as in the clean. */
  Direction direction = Direction::noise;
  std::vector<int> layers = {}, heads = {};  ///< Of senders. Empty: all.
  size_t memory = 0;                         ///< As in PatchOptions.
  Progress progress = {};
};

/**
 * Path patching (Wang et al., 2022, "Interpretability in the wild", appendix
 * B; Goldowsky-Dill et al., 2023): each sender is replaced by what it is in the
 * other run, while every later head (and, on direct paths, every later MLP and
 * what layers' own embeddings add) is held as it was; what the receivers then
 * read is put into a run that is otherwise untouched, whose metric is the cell.
 * Without receivers the path ends at the logits. All senders share one walk.
 * Evaluates. Throws usage, out_of_range.
 */
Sweep path_patch(
    const InterpretableModel& model, const PathPatchOptions& options);

}  // namespace mlxterp
