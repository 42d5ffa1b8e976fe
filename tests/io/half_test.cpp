#include "io/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace mlxterp {
namespace {

// The definition: sign, 5 bits of exponent from 2^-14, 10 of fraction.
double half_by_definition(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int fraction = half & 1023;
  const double sign = half & 0x8000 ? -1 : 1;
  if (exponent == 31)
    return fraction ? std::numeric_limits<double>::quiet_NaN()
                    : sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

TEST(Half, EveryBitPatternIsWhatTheFormatSays) {
  size_t compared = 0;
  for (uint32_t bits = 0; bits < 0x10000; ++bits, ++compared) {
    const auto half = static_cast<uint16_t>(bits);
    const double want = half_by_definition(half);
    const double got = from_half(half);
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(got)) << bits;
      ASSERT_TRUE(std::isnan(from_half(to_half(from_half(half))))) << bits;
      continue;
    }
    ASSERT_EQ(got, want) << bits;
    ASSERT_EQ(std::signbit(got), std::signbit(want)) << bits;
    ASSERT_EQ(to_half(from_half(half)), half) << bits;
  }
  EXPECT_EQ(compared, 65536u);
}

TEST(Half, RoundsToTheNearestAndTiesToEven) {
  for (uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const auto low = static_cast<uint16_t>(bits);
    const auto high = static_cast<uint16_t>(bits + 1);
    const float middle = (from_half(low) + from_half(high)) / 2;
    ASSERT_EQ(to_half(middle), bits % 2 ? high : low) << bits;
    ASSERT_EQ(to_half(std::nextafterf(middle, 0)), low) << bits;
    ASSERT_EQ(to_half(std::nextafterf(middle, 1e9f)), high) << bits;
    ASSERT_EQ(to_half(-middle), (bits % 2 ? high : low) | 0x8000) << bits;
  }
  EXPECT_EQ(to_half(65519.0f), 0x7BFF);
  EXPECT_EQ(to_half(65520.0f), 0x7C00);
  EXPECT_EQ(to_half(1e30f), 0x7C00);
  EXPECT_EQ(to_half(-std::numeric_limits<float>::infinity()), 0xFC00);
  EXPECT_EQ(to_half(1e-30f), 0);
}

TEST(Bfloat, RoundsToTheNearestAndTiesToEven) {
  std::mt19937 random(3);
  for (int i = 0; i < 100000; ++i) {
    const auto low = static_cast<uint16_t>(random() % 0x7F7F);
    const auto high = static_cast<uint16_t>(low + 1);
    ASSERT_EQ(to_bfloat(from_bfloat(low)), low);
    const auto middle =
        std::bit_cast<float>((static_cast<uint32_t>(low) << 16) + 0x8000u);
    ASSERT_EQ(to_bfloat(middle), low % 2 ? high : low);
    ASSERT_EQ(to_bfloat(std::nextafterf(middle, 0)), low);
  }
  EXPECT_EQ(to_bfloat(std::numeric_limits<float>::infinity()), 0x7F80);
  const float nan = std::bit_cast<float>(0x7F800001u);
  EXPECT_TRUE(std::isnan(from_bfloat(to_bfloat(nan))));
}

}  // namespace
}  // namespace mlxterp
