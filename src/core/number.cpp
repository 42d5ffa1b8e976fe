#include "core/number.h"

#include <fmt/format.h>
#include <locale.h>
#include <stdlib.h>

#include <string>

#ifdef __APPLE__
#include <xlocale.h>
#endif

namespace mlxterp {

namespace {

// libc++ has no std::from_chars for floats before LLVM 20, and what it does
// with numbers out of range differs.
locale_t plain() {
  static const locale_t c = newlocale(LC_ALL_MASK, "C", nullptr);
  return c;
}

template <typename T>
std::optional<T> parse(std::string_view text, T (*read)(const char*, char**)) {
  // No blanks before it, no "inf", no "0x".
  if (text.empty() || text.find_first_not_of("0123456789.eE+-") != text.npos)
    return std::nullopt;
  const std::string whole(text);
  char* end = nullptr;
  const T value = read(whole.c_str(), &end);
  if (end != whole.c_str() + whole.size()) return std::nullopt;
  return value;
}

}  // namespace

std::optional<double> parse_double(std::string_view text) {
  return parse<double>(text, [](const char* from, char** end) {
    return strtod_l(from, end, plain());
  });
}

std::optional<float> parse_float(std::string_view text) {
  return parse<float>(text, [](const char* from, char** end) {
    return strtof_l(from, end, plain());
  });
}

double shortest(float value) {
  return parse_double(fmt::format("{}", value)).value_or(double{value});
}

}  // namespace mlxterp
