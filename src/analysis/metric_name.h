// analysis/metric_name.h: what a metric is called.

#pragma once

#include <string>
#include <vector>

namespace mlxterp {

/** Of one metric, which may be written differently for each prompt: the first
 * few. */
std::string name_of(const std::vector<std::string>& metrics);

}  // namespace mlxterp
