// Against the definition: the code points of Unicode, and nothing else.

#include "core/utf8.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace mlxterp {
namespace {

std::string encoded(uint32_t code) {
  const auto byte = [](uint32_t x) { return static_cast<char>(x); };
  if (code < 0x80) return {byte(code)};
  if (code < 0x800) return {byte(0xC0 | code >> 6), byte(0x80 | (code & 0x3F))};
  if (code < 0x10000)
    return {
        byte(0xE0 | code >> 12),
        byte(0x80 | (code >> 6 & 0x3F)),
        byte(0x80 | (code & 0x3F))};
  return {
      byte(0xF0 | code >> 18),
      byte(0x80 | (code >> 12 & 0x3F)),
      byte(0x80 | (code >> 6 & 0x3F)),
      byte(0x80 | (code & 0x3F))};
}

TEST(Utf8, EveryCharacterIsAsLongAsItIs) {
  size_t characters = 0;
  for (uint32_t code = 0; code <= 0x10FFFF; ++code) {
    const auto text = encoded(code);
    const bool surrogate = code >= 0xD800 && code <= 0xDFFF;
    if (utf8_length(text) != (surrogate ? 0 : text.size()) ||
        utf8_length(text + "\x80") != (surrogate ? 0 : text.size()))
      ADD_FAILURE() << std::hex << code;
    // Cut short it is none, nor does it read what lies behind the view.
    for (size_t n = 0; n < text.size(); ++n)
      if (utf8_length(std::string_view(text).substr(0, n)) != 0)
        ADD_FAILURE() << std::hex << code << " cut to " << n;
    characters += !surrogate;
  }
  EXPECT_EQ(characters, 0x110000u - 0x800u);
}

TEST(Utf8, EveryThreeBytesAreACharacterOrNot) {
  std::set<std::string> valid;
  for (uint32_t code = 0x80; code <= 0xFFFF; ++code)
    if (code < 0xD800 || code > 0xDFFF) valid.insert(encoded(code));
  size_t found = 0;
  std::string text(3, ' ');
  for (int a = 0x80; a < 0x100; ++a)
    for (int b = 0; b < 0x100; ++b)
      for (int c = 0; c < 0x100; c += b < 0x80 || b > 0xBF ? 0x55 : 1) {
        text[0] = static_cast<char>(a);
        text[1] = static_cast<char>(b);
        text[2] = static_cast<char>(c);
        const size_t length = utf8_length(text);
        const bool two = valid.contains(text.substr(0, 2));
        const bool three = valid.contains(text);
        if (length != (two ? 2u : three ? 3u : 0u))
          ADD_FAILURE() << std::hex << a << " " << b << " " << c;
        found += three;
      }
  EXPECT_EQ(found, 0x10000u - 0x800u - 0x800u);
}

TEST(Utf8, LongerThanNeedBeOrTooLargeIsNone) {
  for (const char* text :
       {"\xC0\x80",
        "\xC1\xBF",
        "\xE0\x80\x80",
        "\xE0\x9F\xBF",
        "\xF0\x80\x80\x80",
        "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80",
        "\xF8\x88\x80\x80\x80",
        "\xFE",
        "\xFF",
        "\x80",
        "\xBF"})
    EXPECT_EQ(utf8_length(text), 0u);
  EXPECT_EQ(utf8_length(""), 0u);
  EXPECT_EQ(utf8_length(std::string_view("\0", 1)), 1u);
}

}  // namespace
}  // namespace mlxterp
