#include "core/lanes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/core/blas.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

// Some hundred operations, gradients among them, of what `shared` lends to all.
std::vector<mx::array> piece(size_t i, const mx::array& shared) {
  const auto f = [&](const std::vector<mx::array>& in) {
    auto x = in[0];
    for (int layer = 0; layer < 12; ++layer)
      x = mx::add(x, mx::tanh(mx::matmul(x, shared)));
    return std::vector{x};
  };
  const auto x = mx::full({3, 16}, 0.1f * static_cast<float>(i + 1));
  auto [values, gradients] = mx::vjp(f, {x}, {mx::ones({3, 16})});
  return {values[0], gradients[0]};
}

float apart(const mx::array& a, const mx::array& b) {
  return mx::max(mx::abs(mx::subtract(a, b))).item<float>();
}

TEST(Lanes, GiveWhatOneStreamGivesInOrder) {
  size_t compared = 0;
  for (const int streams : {1, 2, 3, 5})
    for (const size_t pieces : {size_t{0}, size_t{1}, size_t{2}, size_t{7}}) {
      const Lanes lanes(Lanes::Exactly{streams});
      ASSERT_EQ(lanes.size(), static_cast<size_t>(streams));
      // Nobody has evaluated it when the pieces are made.
      const auto shared = mx::multiply(
          mx::random::normal({16, 16}, mx::float32, 0, 1, mx::random::key(1)),
          mx::array(0.1f));
      size_t next = 0;
      lanes.each(
          pieces,
          [&](size_t i) { return piece(i, shared); },
          [&](size_t i, std::vector<mx::array>& found) {
            EXPECT_EQ(i, next++);
            ASSERT_EQ(found.size(), 2u);
            const auto wanted = piece(i, shared);
            for (size_t k = 0; k < 2; ++k) {
              EXPECT_EQ(found[k].status(), mx::array::available);
              const auto error = apart(found[k], wanted[k]);
              EXPECT_LE(error, 1e-6f) << streams << " " << i;
              EXPECT_TRUE(std::isfinite(error));
              ++compared;
            }
          });
      EXPECT_EQ(next, pieces);
    }
  EXPECT_EQ(compared, 4u * 10 * 2);
}

TEST(Lanes, SingleArraysComeBackInOrder) {
  const auto found = Lanes(Lanes::Exactly{3}).each(8, [](size_t i) {
    return mx::add(mx::array(static_cast<float>(i)), mx::array(0.5f));
  });
  ASSERT_EQ(found.size(), 8u);
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_EQ(mx::array(found[i]).item<float>(), static_cast<float>(i) + 0.5f);
}

TEST(Lanes, WhatFailsLeavesThemUsable) {
  const int threads = blas_threads();
  {
    const Lanes lanes(8);
    const auto none = [](size_t, std::vector<mx::array>&) {};
    EXPECT_THROW(
        lanes.each(
            4,
            [](size_t i) -> std::vector<mx::array> {
              if (i == 1) throw std::runtime_error("no");
              return {mx::ones({2})};
            },
            none),
        std::runtime_error);
    EXPECT_EQ(
        lanes.each(3, [](size_t) { return mx::ones({2}); }).size(), size_t{3});
  }
  EXPECT_EQ(blas_threads(), threads);
  EXPECT_TRUE(
      mx::default_stream(mx::default_device()) ==
      mx::default_stream(mx::Device::cpu));
}

}  // namespace
}  // namespace mlxterp
