// report/sweep_json.h: the part of a sweep's JSON that verbs share.

#pragma once

#include <vector>

#include "mlxterp/analysis/sweep.h"
#include "report/json.h"

namespace mlxterp::report {

/** axes, shape, effect (values, the last axis fastest), spread, cells,
 * computed, rows. */
void put_cells(Json& out, const Sweep& sweep, const std::vector<float>& values);

/** name, and the metric of the clean and the corrupted run. */
Json json_of_metric(const std::string& name, const Sweep& sweep);

}  // namespace mlxterp::report
