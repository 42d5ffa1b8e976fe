// analysis/row_sites.h: the sites whose values are rows, one a position.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/trace/model.h"

namespace mlxterp {

/** Those that the names and patterns mean, each once, in the model's order.
 * Throws unknown_name, and usage where the rows of one are no positions. */
std::vector<SiteId> row_sites(
    const InterpretableModel& model,
    const std::vector<std::string>& sites,
    const char* function);

}  // namespace mlxterp
