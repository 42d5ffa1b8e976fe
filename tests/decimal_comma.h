// tests/decimal_comma.h: a locale that writes one half as "0,5".

#pragma once

#include <clocale>
#include <cstdlib>
#include <locale>
#include <stdexcept>
#include <string>
#include <string_view>

#include "tests/temp_folder.h"

namespace mlxterp::testing {

/** C's and C++'s locale for as long as it lives, and the environment's for
 * child processes that ask for it. A Mac has the German one; elsewhere few
 * machines do, so glibc gets one of its own. */
class DecimalComma {
 public:
  DecimalComma()
      : before_(std::setlocale(LC_NUMERIC, nullptr)),
        cpp_before_(std::locale::global(
            std::locale(std::locale::classic(), new Comma))) {
#ifdef __GLIBC__
    using namespace std::string_view_literals;
    // Six fields: where each begins, then the point, the mark of thousands,
    // their grouping, both marks as wide characters and the encoding.
    folder_.write(
        "comma/LC_NUMERIC",
        "\x14\x11\x03\x20\x06\0\0\0\x20\0\0\0\x22\0\0\0\x24\0\0\0\x28\0\0\0"
        "\x2c\0\0\0\x30\0\0\0,\0.\0\x03\x03\0\0,\0\0\0.\0\0\0UTF-8\0"sv);
    ::setenv("LOCPATH", folder_.path().c_str(), 1);
    const char* name = "comma";
#else
    const char* name = "de_DE.UTF-8";
#endif
    ::setenv("LC_NUMERIC", name, 1);
    if (!std::setlocale(LC_NUMERIC, name) ||
        std::string_view(std::localeconv()->decimal_point) != ",")
      throw std::runtime_error("no locale with a decimal comma");
  }
  DecimalComma(const DecimalComma&) = delete;
  DecimalComma& operator=(const DecimalComma&) = delete;
  ~DecimalComma() {
    std::setlocale(LC_NUMERIC, before_.c_str());
    std::locale::global(cpp_before_);
    ::unsetenv("LC_NUMERIC");
    ::unsetenv("LOCPATH");
  }

 private:
  struct Comma : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };

  TempFolder folder_;
  std::string before_;
  std::locale cpp_before_;
};

}  // namespace mlxterp::testing
