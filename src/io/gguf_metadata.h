// io/gguf_metadata.h: the metadata of a GGUF file, typed.

#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "core/fail.h"
#include "core/number.h"
#include "io/input_file.h"
#include "mlxterp/io/gguf.h"

namespace mlxterp {

/** The metadata of one file, typed and held against limits. */
class GgufMetadata {
 public:
  explicit GgufMetadata(const Gguf& gguf)
      : gguf_(gguf), name_(quoted(gguf.path())) {}

  template <typename... T>
  [[noreturn]] void bad(fmt::format_string<T...> what, T&&... values) const {
    fail(
        ErrorKind::bad_data,
        "[Checkpoint::open] {}; convert the model again or take another file",
        fmt::format(what, std::forward<T>(values)...));
  }

  const std::string& name() const { return name_; }

  bool has(const std::string& key) const {
    return gguf_.metadata().contains(key);
  }

  /** The value, nullptr where the key is absent; another type is an error. */
  template <typename T>
  const T* find(const std::string& key, std::string_view wanted) const {
    const auto found = gguf_.metadata().find(key);
    if (found == gguf_.metadata().end()) return nullptr;
    const T* value = std::get_if<T>(&found->second);
    if (!value) bad("{} of {} is not {}", key, name_, wanted);
    return value;
  }

  /** The value where it is of that type. */
  template <typename T>
  const T* find_any(const std::string& key) const {
    const auto found = gguf_.metadata().find(key);
    return found == gguf_.metadata().end() ? nullptr
                                           : std::get_if<T>(&found->second);
  }

  const std::string& text(const std::string& key) const {
    const auto* value = find<std::string>(key, "a string");
    if (!value) missing(key);
    return *value;
  }

  std::optional<int64_t> find_integer(
      const std::string& key, int64_t least, int64_t most) const {
    const auto* value = find<int64_t>(key, "an integer");
    if (!value) return std::nullopt;
    if (*value < least || *value > most)
      bad("{} of {} is {}, not from {} to {}", key, name_, *value, least, most);
    return *value;
  }

  int64_t integer(const std::string& key, int64_t least, int64_t most) const {
    const auto value = find_integer(key, least, most);
    if (!value) missing(key);
    return *value;
  }

  /** Positive and finite. */
  std::optional<double> find_number(const std::string& key) const {
    const auto* value = find<double>(key, "a float");
    if (!value) return std::nullopt;
    if (!std::isfinite(*value) || *value <= 0)
      bad("{} of {} is {}, not a positive number", key, name_, *value);
    // As the float32 was written, where it is one.
    const auto narrow = static_cast<float>(*value);
    return static_cast<double>(narrow) == *value ? shortest(narrow) : *value;
  }

  double number(const std::string& key) const {
    const auto value = find_number(key);
    if (!value) missing(key);
    return *value;
  }

 private:
  [[noreturn]] void missing(const std::string& key) const {
    bad("{} has no {} in its metadata", name_, key);
  }

  const Gguf& gguf_;
  std::string name_;
};

}  // namespace mlxterp
