// view/characters.h: what a character is to someone who looks at it.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/utf8.h"

namespace mlxterp::view {

struct Character {
  uint32_t code = 0;  ///< The code point, or the byte where not valid.
  size_t length = 1;  ///< Bytes.
  bool valid = true;  ///< Whether it is UTF-8 at all.
};

/** The character that starts at byte `at`. */
inline Character character_at(std::string_view text, size_t at) {
  const size_t length = utf8_length(text.substr(at));
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(text[at + i]));
  };
  if (length == 0) return {byte(0), 1, false};
  if (length == 1) return {byte(0), 1, true};
  uint32_t code = byte(0) & (0xFFu >> (length + 1));
  for (size_t i = 1; i < length; ++i)
    code = code << 6 | (byte(i) & 0x3Fu);
  return {code, length, true};
}

/** Controls and what formats text unseen: bidirectional controls, zero-width
 * characters, line separators, tags. */
bool is_invisible(uint32_t code);

/** Columns on a terminal: 0, 1 or 2. */
size_t width_of(uint32_t code);

}  // namespace mlxterp::view
