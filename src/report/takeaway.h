// report/takeaway.h: what a sweep's picture shows, in words.

#pragma once

#include <string>

#include "mlxterp/report/facts.h"
#include "mlxterp/report/heatmap.h"

namespace mlxterp::report {

/** "Layer 17, pos 13 ( to) has the largest effect: ...", of a heatmap whose
 * details begin with the metric and whose first bound is the run that is
 * changed; "" where no cell can be compared. */
std::string takeaway(const Heatmap& map);

/** Three digits, with a sign also where it is a plus if there is any minus. */
std::string written(float value, bool sign);

/** "97%", "3.1%", "0.04%" */
std::string percents(double share);

/** What is worth showing of what was asked for, as text. */
std::vector<std::pair<std::string, std::string>> shown(const Facts& facts);

}  // namespace mlxterp::report
