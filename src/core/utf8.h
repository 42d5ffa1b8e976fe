// core/utf8.h: where the characters of a UTF-8 text end.

#pragma once

#include <cstddef>
#include <string_view>

namespace mlxterp {

/** Length of the well-formed UTF-8 character at the start of `text`, else 0
 * (Unicode 15, table 3-7). */
inline size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const auto tail = [&](size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  if (text.empty()) return 0;
  const unsigned first = byte(0);
  if (first < 0x80u) return 1;
  if (first >= 0xC2u && first <= 0xDFu && tail(1)) return 2;
  if (first >= 0xE0u && first <= 0xEFu && tail(1) && tail(2)) {
    if (first == 0xE0u && byte(1) < 0xA0u) return 0;
    if (first == 0xEDu && byte(1) > 0x9Fu) return 0;
    return 3;
  }
  if (first >= 0xF0u && first <= 0xF4u && tail(1) && tail(2) && tail(3)) {
    if (first == 0xF0u && byte(1) < 0x90u) return 0;
    if (first == 0xF4u && byte(1) > 0x8Fu) return 0;
    return 4;
  }
  return 0;
}

}  // namespace mlxterp
