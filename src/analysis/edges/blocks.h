// analysis/edges/blocks.h: scores of edges, many in one product.

#pragma once

#include <vector>

#include "analysis/edges/runs.h"

namespace mlxterp {

/** Of `sources` sources from `start` on into destinations from `first` on. */
struct EdgeBlock {
  int first = 0, start = 0, sources = 0;
  /** [source, destination], or [pos, source, destination] from the position on
   * where the runs differ. */
  mlx::core::array scores;
};

/** Differences of sources [start, end) times gradients (of each reader, added
 * up over `points`), of neighbouring readers in one product. Lazy. */
std::vector<EdgeBlock> contracted(
    const EdgeGraph& graph,
    const EdgeRuns& runs,
    const std::vector<mlx::core::array>& gradients,
    float points,
    int start,
    int end,
    bool by_position);

}  // namespace mlxterp
