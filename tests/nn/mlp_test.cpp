// An activation with parameters of its own.

#include "mlxterp/nn/mlp.h"

#include <gtest/gtest.h>

#include <cmath>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

constexpr double alpha_p = 0.3, alpha_n = -0.7, beta = 0.4, eps = -0.2;

double softplus(double x) {
  return std::log1p(std::exp(x));
}

double exact(double x) {
  if (x > 0) return softplus(alpha_p) * x * x + beta * x;
  return (beta + softplus(alpha_n)) * (std::expm1(std::min(x, eps)) - x) +
         beta * x;
}

void set(nn::XIELU& to) {
  const auto one = [](double x) {
    return mx::full({1}, static_cast<float>(x));
  };
  to.alpha_p = one(alpha_p);
  to.alpha_n = one(alpha_n);
  to.beta = one(beta);
  to.eps = one(eps);
}

TEST(XIELU, IsTheFormula) {
  nn::XIELU xielu(4);
  set(xielu);
  const auto x =
      mx::reshape(mx::linspace(-30, 30, 6000, mx::float32), {1, 60, 100});
  std::vector<float> wanted;
  for (size_t i = 0; i < x.size(); ++i) {
    auto flat = mx::contiguous(x);
    flat.eval();
    wanted.push_back(static_cast<float>(exact(flat.data<float>()[i])));
  }
  const mx::array expected(wanted.data(), x.shape(), mx::float32);
  Pass pass;
  const auto y = xielu(x, pass);
  test::expect_close(
      mx::divide(y, mx::maximum(mx::abs(expected), mx::array(1.0f))),
      mx::divide(expected, mx::maximum(mx::abs(expected), mx::array(1.0f))),
      1e-6,
      x.size(),
      "xielu");
}

TEST(XIELU, KeepsHalfPrecisionAndRoundsOnce) {
  nn::XIELU xielu(4);
  set(xielu);
  const auto x =
      mx::astype(mx::linspace(-4, 4, 400, mx::float32), mx::bfloat16);
  Pass pass;
  const auto y = xielu(x, pass);
  EXPECT_EQ(y.dtype(), mx::bfloat16);
  const auto wide = xielu(mx::astype(x, mx::float32), pass);
  const auto off = mx::abs(mx::subtract(mx::astype(y, mx::float32), wide));
  EXPECT_TRUE(mx::all(mx::less_equal(
                          off,
                          mx::add(
                              mx::multiply(mx::abs(wide), mx::array(0x1p-8f)),
                              mx::array(1e-30f))))
                  .item<bool>());
}

// Where one side is not taken, its derivative must not be one of NaN.
TEST(XIELU, HasADerivativeEverywhere) {
  nn::XIELU xielu(4);
  set(xielu);
  Pass pass;
  const auto slope = mx::grad([&](const mx::array& x) {
    return mx::sum(xielu(x, pass));
  })(mx::array({-1e4f, -3.0f, -0.1f, 0.0f, 0.1f, 3.0f, 1e4f}));
  EXPECT_TRUE(mx::all(mx::isfinite(slope)).item<bool>());
}

TEST(XIELU, IsNoPlainActivation) {
  try {
    nn::activate(nn::Activation::xielu, mx::array({1.0f})).eval();
    FAIL() << "was computed without its parameters";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_NE(std::string(error.what()).find("XIELU"), std::string::npos);
  }
}

}  // namespace
}  // namespace mlxterp
