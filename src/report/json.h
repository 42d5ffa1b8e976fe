// report/json.h: how reports become JSON.

#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/report/facts.h"
#include "mlxterp/report/names.h"

namespace mlxterp::report {

using Json = nlohmann::ordered_json;

/** The float as the shortest number that means it; null for NaN and Inf. */
Json number(float value);
Json number(double value);
Json numbers(const std::vector<float>& values);

struct SiteStatistics;

Json json_of(const Value& value);
Json json_of(const std::vector<SiteStatistics>& saved);
Json json_of(const NamedToken& token);
Json json_of(const std::vector<NamedToken>& tokens);

/** Valid UTF-8 that does nothing to a terminal: bytes that are none become
 * U+FFFD, controls and marks of direction are escaped. `indent` -1: one line.
 */
std::string text_of(const Json& json, int indent = 2);

}  // namespace mlxterp::report
