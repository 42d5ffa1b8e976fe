// tests/io/compare.h: two-sided comparison of numbers that counts them.

#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "mlx/array.h"

namespace mlxterp::testing {

/** Every |got - want| <= tolerance * the largest |want|, and no NaN. */
inline void expect_close(
    const mlx::core::array& got,
    const mlx::core::array& want,
    double tolerance,
    const std::string& name) {
  ASSERT_EQ(got.shape(), want.shape()) << name;
  ASSERT_EQ(got.dtype(), mlx::core::float32) << name;
  ASSERT_EQ(want.dtype(), mlx::core::float32) << name;
  ASSERT_GT(got.size(), 0u) << name;
  double largest = 0;
  double error = 0;
  size_t nan = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double a = got.data<float>()[i];
    const double b = want.data<float>()[i];
    nan += std::isnan(a) || std::isnan(b);
    largest = std::max(largest, std::abs(b));
    error = std::max(error, std::abs(a - b));
  }
  EXPECT_EQ(nan, 0u) << name;
  EXPECT_LE(error, tolerance * largest) << name;
  std::printf(
      "%-8s %6zu numbers, largest error %.3g of %.3g\n",
      name.c_str(),
      got.size(),
      error,
      largest);
}

}  // namespace mlxterp::testing
