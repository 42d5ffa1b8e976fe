// tests/compare.h: two-sided comparison of arrays: NaN fails, the number of
// values is asserted, the largest error is printed.

#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>

#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mlxterp::test {

/** Largest |a - b|; infinite where the shapes differ or a NaN is met. */
inline double max_difference(
    const mlx::core::array& a, const mlx::core::array& b) {
  namespace mx = mlx::core;
  if (a.shape() != b.shape() || a.size() == 0) return INFINITY;
  auto x = mx::contiguous(mx::astype(a, mx::float32));
  auto y = mx::contiguous(mx::astype(b, mx::float32));
  mx::eval(x, y);
  double largest = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double u = x.data<float>()[i], v = y.data<float>()[i];
    if (u == v) continue;  // -inf masks are equal too
    const double difference = std::abs(u - v);
    if (!(difference <= largest)) largest = difference;
    if (std::isnan(difference)) return INFINITY;
  }
  return largest;
}

inline double max_magnitude(const mlx::core::array& a) {
  namespace mx = mlx::core;
  return mx::max(mx::abs(mx::astype(a, mx::float32))).item<float>();
}

/** `values` is how many numbers must have been compared. */
inline void expect_close(
    const mlx::core::array& actual,
    const mlx::core::array& expected,
    double tolerance,
    size_t values,
    const std::string& what) {
  EXPECT_EQ(actual.size(), values) << what;
  const double error = max_difference(actual, expected);
  std::printf(
      "%-32s %8zu values, largest error %.3g (at most %.3g)\n",
      what.c_str(),
      actual.size(),
      error,
      tolerance);
  EXPECT_LE(error, tolerance) << what;
}

/** What the same operations gave twice. A product need not: how a BLAS adds up
    depends on processor, threads and memory. */
inline void expect_repeated(
    const mlx::core::array& actual,
    const mlx::core::array& expected,
    const std::string& what) {
  ASSERT_EQ(actual.dtype(), expected.dtype()) << what;
  const double size = max_magnitude(expected);
  ASSERT_TRUE(std::isfinite(size)) << what;
  expect_close(
      actual, expected, 1e-5 * std::max(1.0, size), expected.size(), what);
}

/** The same bits: copies, masks, one array, where no product lies between. */
inline void expect_identical(
    const mlx::core::array& actual,
    const mlx::core::array& expected,
    const std::string& what) {
  ASSERT_EQ(actual.dtype(), expected.dtype()) << what;
  EXPECT_GT(actual.size(), 0u) << what;
  EXPECT_EQ(max_difference(actual, expected), 0.0) << what;
}

}  // namespace mlxterp::test
