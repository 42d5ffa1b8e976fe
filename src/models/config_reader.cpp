#include "models/config_reader.h"

#include <limits>

#include "core/fail.h"
#include "io/json.h"

namespace mlxterp {

namespace {

std::string shown(const nlohmann::json& value) {
  return printable(
      value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace), 60);
}

// As the float32 it becomes. Below the normal floats 1 / x is infinite.
std::optional<float> positive_float(const nlohmann::json& value) {
  if (!value.is_number()) return std::nullopt;
  const double wide = value.get<double>();
  if (!(wide >= std::numeric_limits<float>::min() &&
        wide <= std::numeric_limits<float>::max()))
    return std::nullopt;
  return static_cast<float>(wide);
}

}  // namespace

ConfigReader::ConfigReader(const std::string& text) {
  json_ = parse_json(text, "config.json", "the text");
  if (!json_.is_object())
    fail(
        ErrorKind::bad_data,
        "[config.json] is not a JSON object; it starts '{}'",
        printable(text, 40));
}

bool ConfigReader::has(const char* field) const {
  const auto found = json_.find(field);
  return found != json_.end() && !found->is_null();
}

bool ConfigReader::null(const char* field) const {
  return stated(field) && !has(field);
}

const nlohmann::json& ConfigReader::at(const char* field) const {
  if (!stated(field))
    fail(ErrorKind::bad_data, "[config.json] the field '{}' is missing", field);
  return json_[field];
}

int ConfigReader::integer(const char* field, int least, int most) const {
  const auto& value = at(field);
  const bool whole = value.is_number_integer() || value.is_number_unsigned();
  // A number above int64 arrives unsigned; compare it unsigned.
  const bool fits = whole && (value.is_number_unsigned()
                                  ? value.get<uint64_t>() <= uint64_t(most)
                                  : value.get<int64_t>() <= most);
  if (!fits || value.get<int64_t>() < least)
    fail(
        ErrorKind::bad_data,
        "[config.json] '{}' is {}; expected a whole number from {} to {}",
        field,
        shown(value),
        least,
        most);
  return value.get<int>();
}

int ConfigReader::integer_or(
    const char* field, int fallback, int least, int most) const {
  if (stated(field)) return integer(field, least, most);
  if (fallback < least || fallback > most)
    fail(
        ErrorKind::bad_data,
        "[config.json] '{}' is missing, which means {}; expected a whole "
        "number from {} to {}",
        field,
        fallback,
        least,
        most);
  return fallback;
}

float ConfigReader::positive(
    const char* field, std::optional<float> fallback) const {
  if (fallback && !stated(field)) return *fallback;
  const auto& value = at(field);
  if (const auto number = positive_float(value)) return *number;
  fail(
      ErrorKind::bad_data,
      "[config.json] '{}' is {}; expected a number above 0 that float32 can "
      "hold (about 1e-38 to 3e38)",
      field,
      shown(value));
}

bool ConfigReader::boolean(const char* field, bool fallback) const {
  if (!stated(field)) return fallback;
  const auto& value = at(field);
  if (!value.is_boolean())
    fail(
        ErrorKind::bad_data,
        "[config.json] '{}' is {}; expected true or false",
        field,
        shown(value));
  return value.get<bool>();
}

std::vector<float> ConfigReader::numbers(
    const char* field, size_t count) const {
  const auto& value = at(field);
  std::vector<float> all;
  if (value.is_array() && value.size() == count)
    for (const auto& each : value)
      if (const auto number = positive_float(each)) all.push_back(*number);
  if (all.size() != count)
    fail(
        ErrorKind::bad_data,
        "[config.json] '{}' is {}; expected {} numbers above 0 that float32 "
        "can hold",
        field,
        shown(value),
        count);
  return all;
}

std::vector<std::string> ConfigReader::texts(
    const char* field, size_t count) const {
  const auto& value = at(field);
  std::vector<std::string> all;
  if (value.is_array() && value.size() == count)
    for (const auto& text : value)
      if (text.is_string()) all.push_back(text.get<std::string>());
  if (all.size() != count)
    fail(
        ErrorKind::bad_data,
        "[config.json] '{}' is {}; expected {} strings",
        field,
        shown(value),
        count);
  return all;
}

std::vector<bool> ConfigReader::booleans(
    const char* field, size_t count) const {
  const auto& value = at(field);
  std::vector<bool> all;
  if (value.is_array() && value.size() == count)
    for (const auto& flag : value)
      if (flag.is_boolean() || flag == 0 || flag == 1)
        all.push_back(flag.is_boolean() ? flag.get<bool>() : flag == 1);
  if (all.size() != count)
    fail(
        ErrorKind::bad_data,
        "[config.json] '{}' is {}; expected {} entries, each true or false, 1 "
        "or 0",
        field,
        shown(value),
        count);
  return all;
}

ConfigReader ConfigReader::object(const char* field) const {
  if (!has(field)) return ConfigReader(nlohmann::json::object());
  const auto& value = at(field);
  if (!value.is_object())
    fail(
        ErrorKind::bad_data,
        "[config.json] '{}' is {}; expected an object",
        field,
        shown(value));
  return ConfigReader(value);
}

std::string ConfigReader::text_or(
    const char* field, const char* fallback) const {
  return stated(field) ? text(field) : fallback;
}

std::string ConfigReader::text(const char* field) const {
  const auto& value = at(field);
  if (!value.is_string())
    fail(
        ErrorKind::bad_data,
        "[config.json] '{}' is {}; expected a string",
        field,
        shown(value));
  return value.get<std::string>();
}

}  // namespace mlxterp
