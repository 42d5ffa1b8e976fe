// analysis/edges/flow.h: information flow routes.

#pragma once

#include "analysis/edges/graph.h"

namespace mlxterp {

/** EdgeMethod::ifr of what was checked. */
EdgeScores information_flow(
    const InterpretableModel& model,
    const EdgeOptions& options,
    const EdgeGraph& graph);

}  // namespace mlxterp
