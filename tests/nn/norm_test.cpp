// Norms without a gain.

#include "mlxterp/nn/norm.h"

#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "tests/compare.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

TEST(Norm, WithoutAGainIsAsWithOnes) {
  const auto x =
      mx::random::normal({2, 5, 12}, mx::float32, 1, 3, mx::random::key(0));
  for (const auto kind :
       {nn::NormConfig::Kind::rms, nn::NormConfig::Kind::layer})
    for (const bool bias : {false, true})
      for (const auto& shape : {mx::Shape{12}, mx::Shape{5, 12}}) {
        nn::Norm with(shape, {.kind = kind, .bias = bias});
        nn::Norm without(shape, {.kind = kind, .bias = bias, .gain = false});
        if (bias) {
          const auto shift = mx::random::normal(shape, mx::random::key(1));
          with.bias = without.bias = shift;
        }
        EXPECT_EQ(without.parameters().size(), with.parameters().size() - 1);
        Pass pass;
        test::expect_close(
            without(x, pass), with(x, pass), 1e-5, x.size(), "norm");
        const auto half = without(mx::astype(x, mx::bfloat16), pass);
        EXPECT_EQ(half.dtype(), mx::bfloat16);
      }
}

}  // namespace
}  // namespace mlxterp
