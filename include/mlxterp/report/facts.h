// mlxterp/report/facts.h: what was asked for, as a report repeats it.

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace mlxterp::report {

/** A value of JSON's kinds; a double that is not finite is null. */
using Value = std::variant<
    std::nullptr_t,
    bool,
    int64_t,
    double,
    std::string,
    std::vector<int>,
    std::vector<std::vector<int>>,
    std::vector<std::string>>;

/** Names and values, in the order they are shown. */
using Facts = std::vector<std::pair<std::string, Value>>;

/** Each value as a text of JSON, valid UTF-8: the metadata of a safetensors
 * file. */
std::map<std::string, std::string> metadata(const Facts& facts);

}  // namespace mlxterp::report
