// Numbers as text: what is read as one, and that no locale has a say.

#include "core/number.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/decimal_comma.h"

namespace mlxterp {
namespace {

void check_numbers() {
  const std::pair<const char*, double> numbers[] = {
      {"0.5", 0.5},
      {"-1.25e2", -125},
      {"+3", 3},
      {"1e-05", 1e-5},
      {".5", 0.5},
      {"1234567.5", 1234567.5},
      {"1e-999", 0},
      {"1e999", std::numeric_limits<double>::infinity()}};
  for (const auto& [text, value] : numbers) {
    EXPECT_EQ(parse_double(text), value) << text;
    EXPECT_EQ(parse_float(text), static_cast<float>(value)) << text;
  }
  for (const char* text :
       {"", " 1", "1 ", "0,5", "1.2.3", "inf", "nan", "0x10", "1e", "-", "1_0"})
    EXPECT_EQ(parse_double(text), std::nullopt) << text;
  EXPECT_EQ(parse_double(std::string_view("1\0", 2)), std::nullopt);
  EXPECT_EQ(shortest(1e-5f), 1e-5);
  EXPECT_EQ(shortest(1234567.5f), 1234567.5);
  EXPECT_TRUE(std::isnan(shortest(std::nanf(""))));
}

TEST(Number, IsReadWhole) {
  check_numbers();
}

TEST(Number, KnowsNoLocale) {
  const testing::DecimalComma comma;
  check_numbers();
}

}  // namespace
}  // namespace mlxterp
