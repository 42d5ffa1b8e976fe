// models/config_reader.h: reads config.json with every number checked.

#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace mlxterp {

/** A config.json whose fields are fetched by name, type and range; what is
 * wrong is a bad_data Error that names the field. A fallback is for a field
 * that is absent. */
class ConfigReader {
 public:
  explicit ConfigReader(const std::string& text);
  explicit ConfigReader(nlohmann::json object) : json_(std::move(object)) {}

  int integer(const char* field, int least, int most) const;
  int integer_or(const char* field, int fallback, int least, int most) const;
  /** Above zero, and so in float32 too: neither 1e-50 nor 1e50. Without a
   * fallback the field must be there. */
  float positive(
      const char* field, std::optional<float> fallback = std::nullopt) const;
  /** Positive numbers, as many as are asked for. */
  std::vector<float> numbers(const char* field, size_t count) const;
  std::vector<std::string> texts(const char* field, size_t count) const;
  bool boolean(const char* field, bool fallback) const;
  std::vector<bool> booleans(const char* field, size_t count) const;
  std::string text(const char* field) const;
  std::string text_or(const char* field, const char* fallback) const;
  /** A JSON object inside; an empty one where it is absent or null. */
  ConfigReader object(const char* field) const;
  /** Present and not null. Only who asks this or null() reads a null: to all
   * others it is a wrong type, as to transformers. */
  bool has(const char* field) const;
  /** Present and null, which is not the same as absent where the default is
   * something else: a config without sliding_window has the family's window,
   * one with null has none. */
  bool null(const char* field) const;
  const nlohmann::json& json() const { return json_; }

 private:
  bool stated(const char* field) const { return json_.contains(field); }
  const nlohmann::json& at(const char* field) const;

  nlohmann::json json_;
};

}  // namespace mlxterp
