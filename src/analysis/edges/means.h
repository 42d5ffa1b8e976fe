// analysis/edges/means.h: scores of edges from what was added up over prompts.

#pragma once

#include <vector>

#include "mlxterp/analysis/edges.h"

namespace mlxterp {

/** Scores and spread of out.pairs prompts, from sums and sums of squares in the
 * scores' order; NaN where there is no edge. */
void put_means(
    EdgeScores& out,
    const std::vector<double>& sums,
    const std::vector<double>& squares);

}  // namespace mlxterp
