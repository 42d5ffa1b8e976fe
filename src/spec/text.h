// spec/text.h: what the parsers of this folder share.

#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/fail.h"
#include "core/number.h"
#include "mlxterp/core/limits.h"

namespace mlxterp::spec {

/** The whole of `text` as a number; nothing where it is not one. */
template <typename T>
std::optional<T> whole_number(std::string_view text) {
  T value{};
  const auto* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end) return std::nullopt;
  return value;
}

/** Both ends count. */
struct Range {
  int first, last;

  uint64_t count() const {
    return static_cast<uint64_t>(int64_t{last} - first) + 1;
  }
};

/** "3" or "3..7"; nothing where it is neither, or falls. */
inline std::optional<Range> range_of(std::string_view text) {
  const auto dots = text.find("..");
  const auto first = whole_number<int>(text.substr(0, dots));
  const auto last =
      dots == text.npos ? first : whole_number<int>(text.substr(dots + 2));
  if (!first || !last || *last < *first) return std::nullopt;
  return Range{*first, *last};
}

/** The whole of `text` as a finite decimal number, whatever the locale. */
inline std::optional<float> finite_number(std::string_view text) {
  if (text.size() > limits::spec_number_bytes) return std::nullopt;
  const auto value = parse_float(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

inline std::string_view trimmed(std::string_view text) {
  while (text.starts_with(' '))
    text.remove_prefix(1);
  while (text.ends_with(' '))
    text.remove_suffix(1);
  return text;
}

/** Throws usage where the texts are more than anybody means. */
inline void check_size(
    const std::vector<std::string>& texts, std::string_view name) {
  size_t bytes = 0;
  for (const auto& text : texts)
    bytes += text.size() + 1;
  if (bytes > limits::spec_bytes)
    fail(
        ErrorKind::usage,
        "{}: {} bytes of text; at most {} are read",
        name,
        bytes,
        limits::spec_bytes);
}

}  // namespace mlxterp::spec
