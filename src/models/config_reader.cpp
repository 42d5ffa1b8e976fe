#include "models/config_reader.h"

#include <cmath>

#include "core/fail.h"

namespace mlxterp {

namespace {

std::string shown(const nlohmann::json& value) {
  return printable(
      value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace), 60);
}

}  // namespace

ConfigReader::ConfigReader(const std::string& text) {
  json_ = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
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

const nlohmann::json& ConfigReader::at(const char* field) const {
  if (!has(field))
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
  return has(field) ? integer(field, least, most) : fallback;
}

float ConfigReader::positive(
    const char* field, std::optional<float> fallback) const {
  if (fallback && !has(field)) return *fallback;
  const auto& value = at(field);
  const double number = value.is_number() ? value.get<double>() : 0.0;
  if (!std::isfinite(static_cast<float>(number)) || number <= 0)
    fail(
        ErrorKind::bad_data,
        "[config.json] '{}' is {}; expected a finite number above 0",
        field,
        shown(value));
  return static_cast<float>(number);
}

bool ConfigReader::boolean(const char* field, bool fallback) const {
  if (!has(field)) return fallback;
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
    for (const auto& number : value)
      if (number.is_number() && std::isfinite(number.get<float>()) &&
          number.get<float>() > 0)
        all.push_back(number.get<float>());
  if (all.size() != count)
    fail(
        ErrorKind::bad_data,
        "[config.json] '{}' is {}; expected {} numbers above 0",
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
  return has(field) ? text(field) : fallback;
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
