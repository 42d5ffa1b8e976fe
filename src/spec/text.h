// spec/text.h: what the parsers of this folder share.

#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <locale>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/spec/limits.h"

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

/** The whole of `text` as a finite decimal number, whatever the locale. Not
 * std::from_chars, which libc++ lacks for floats before LLVM 20. */
inline std::optional<float> finite_number(std::string_view text) {
  if (text.empty() || text.size() > limits::spec_number_bytes ||
      text.find_first_not_of("0123456789.eE+-") != text.npos)
    return std::nullopt;
  std::istringstream in{std::string(text)};
  in.imbue(std::locale::classic());
  double value = 0;  // a float that is too small is 0, not a failure
  if (!(in >> value) || in.peek() != std::istringstream::traits_type::eof())
    return std::nullopt;
  const auto narrow = static_cast<float>(value);
  return std::isfinite(narrow) ? std::optional(narrow) : std::nullopt;
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
