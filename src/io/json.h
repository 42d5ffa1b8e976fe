// io/json.h: JSON from outside, read strictly.

#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace mlxterp {

/**
 * Parses one JSON value. Refused, as bad_data: what is not JSON, a key that
 * appears twice in one object, nesting beyond limits::json_depth, more values
 * than limits::json_values. Takes time linear in the text but for the logarithm
 * of an object's members. `what` names the text in the message: "config.json of
 * 'model'".
 */
nlohmann::json parse_json(
    std::string_view text, std::string_view caller, std::string_view what);

/** `text` with Python's bare NaN, Infinity and -Infinity, which no JSON has, as
 * transformers 5 writes them: {"__float__": "Infinity"}. */
std::string with_quoted_infinities(std::string text);

/** A small text file, whole; bad_data above `limit` bytes or where it is empty
 * or a placeholder for the real file. */
std::string read_text(
    const std::filesystem::path& path, size_t limit, std::string_view caller);

}  // namespace mlxterp
