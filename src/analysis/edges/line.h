// analysis/edges/line.h: points on the line between two runs.

#pragma once

#include <vector>

#include "mlxterp/analysis/edges.h"
#include "trace/carried_rows.h"

namespace mlxterp {

/** How far along the line from the base run to the other a method's points
 * lie. */
std::vector<float> line_shares(const EdgeOptions& options);

/** The points, [point, pos, d_model], of both runs [2, pos, d_model], with what
 * travels beside them. Lazy. */
Stream points_between(const Stream& both, const std::vector<float>& shares);

}  // namespace mlxterp
