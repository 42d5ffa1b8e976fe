// core/fail.h: throws an Error with a formatted message; how every file here
// reports a failure.

#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

#include "mlxterp/core/error.h"

namespace mlxterp {

/** `text` as valid UTF-8 for a message: control bytes and what is not UTF-8
 * become \xNN, and more than `limit` bytes are cut with "...". */
std::string printable(std::string_view text, size_t limit = 120);

template <typename... T>
[[noreturn]] void fail(
    ErrorKind kind, fmt::format_string<T...> format, T&&... args) {
  throw Error(kind, fmt::format(format, std::forward<T>(args)...));
}

}  // namespace mlxterp
