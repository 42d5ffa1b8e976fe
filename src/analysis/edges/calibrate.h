// analysis/edges/calibrate.h: how far an estimate of edges is off, by a sample
// of them that is run.

#pragma once

#include <cstdint>
#include <vector>

#include "analysis/edges/graph.h"

namespace mlxterp {

/** Which edges are run, [source, destination]: of each distance between layers
 * the share, rounded up, and at least as many as a band of 90 % needs. */
std::vector<bool> drawn_edges(
    const EdgeGraph& graph, double share, uint64_t seed);

/** Fills in errors and coverage by what `exact` holds. */
void calibrate(EdgeScores& found, uint64_t seed);

}  // namespace mlxterp
