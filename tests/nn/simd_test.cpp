// The loops of our own against MLX's ops, and against double precision.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "mlx/fast.h"
#include "mlx/mlx.h"
#include "mlxterp/nn/attention.h"
#include "mlxterp/nn/mlp.h"
#include "mlxterp/nn/norm.h"
#include "nn/simd/fused.h"
#include "nn/simd/kernels.h"
#include "tests/compare.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using nn::Activation;

void expect_near(
    const mx::array& actual,
    const mx::array& expected,
    double tolerance,
    const std::string& what) {
  EXPECT_EQ(actual.shape(), expected.shape()) << what;
  if (expected.size() > 0)
    test::expect_close(actual, expected, tolerance, expected.size(), what);
}

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr Activation activations[] = {
    Activation::silu,
    Activation::gelu,
    Activation::gelu_tanh,
    Activation::relu,
    Activation::relu_squared};

mx::array steps(Activation activation, const mx::array& x) {
  const auto c = [](double value) {
    return mx::array(static_cast<float>(value));
  };
  switch (activation) {
    case Activation::silu:
      return x * mx::sigmoid(x);
    case Activation::gelu:
      return c(0.5) * x * (c(1) + mx::erf(x * c(std::sqrt(0.5))));
    case Activation::gelu_tanh:
      return c(0.5) * x *
             (c(1) +
              mx::tanh(c(std::sqrt(2 / M_PI)) * (x + c(0.044715) * x * x * x)));
    case Activation::relu_squared:
      return mx::square(mx::maximum(x, c(0)));
    default:
      return mx::maximum(x, c(0));
  }
}

double exact(Activation activation, double x) {
  switch (activation) {
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::gelu:
      return 0.5 * x * std::erfc(-x * std::sqrt(0.5));
    case Activation::gelu_tanh:
      return x /
             (1 +
              std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::relu_squared:
      return std::pow(std::max(x, 0.0), 2);
    default:
      return std::max(x, 0.0);
  }
}

// As MLX lays it out, evaluated.
std::vector<float> values(const mx::array& x) {
  auto dense = mx::contiguous(x);
  dense.eval();
  return {dense.data<float>(), dense.data<float>() + dense.size()};
}

mx::array random(const mx::Shape& shape, unsigned seed) {
  return mx::random::normal(shape, mx::float32, 0, 1, mx::random::key(seed));
}

// Mostly NaN where MLX has NaN, Inf where MLX has Inf.
void expect_same_kind(const mx::array& ours, const mx::array& theirs) {
  const auto a = values(ours), b = values(theirs);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(std::isnan(a[i]), std::isnan(b[i])) << i << ": " << a[i];
    EXPECT_EQ(std::isinf(a[i]), std::isinf(b[i])) << i << ": " << a[i];
  }
}

TEST(Activate, WithinAFewUlpAndNotWorseThanMlx) {
  for (const auto activation : activations) {
    const auto x = mx::concatenate(
        {mx::linspace(-110, 110, 40001, mx::float32),
         mx::linspace(-4, 4, 40001, mx::float32),
         mx::array({0.0f, -0.0f, 1e-38f, -1e-38f, 1e-45f, 3e38f, -3e38f})});
    const auto in = values(x);
    const auto ours = values(nn::activate(activation, x));
    const auto theirs = values(steps(activation, x));
    double worst = 0;
    for (size_t i = 0; i < in.size(); ++i) {
      const double wanted = exact(activation, in[i]);
      const auto near = std::abs(static_cast<float>(wanted));
      const double ulp = std::nextafter(near, inf) - near;
      const double error = std::abs(ours[i] - wanted);
      if (error > std::abs(theirs[i] - wanted) && error > 1e-38)
        worst = std::max(worst, error / ulp);
    }
    // Far out the exponential magnifies what its argument was rounded by.
    EXPECT_LE(worst, activation == Activation::gelu_tanh ? 16 : 8)
        << static_cast<int>(activation);
  }
}

TEST(Activate, SizesLayoutsAndTheFactor) {
  for (const auto activation : activations)
    for (const int n : {0, 1, 3, 15, 16, 17, 33, 100003}) {
      const auto x = random({2, n}, 1), y = random({2, n}, 2);
      const auto wanted = steps(activation, x);
      expect_near(nn::activate(activation, x), wanted, 1e-6, "plain");
      expect_near(nn::activate(activation, x, y), wanted * y, 1e-6, "gated");
      const auto turned = mx::transpose(x);
      expect_near(
          nn::activate(activation, turned, mx::transpose(y)),
          mx::transpose(wanted * y),
          1e-6,
          "turned");
      expect_near(
          nn::activate(activation, mx::broadcast_to(x, {3, 2, n})),
          mx::broadcast_to(wanted, {3, 2, n}),
          1e-6,
          "broadcast");
    }
  const auto x = random({4, 20}, 1);
  const auto kept = values(x);
  nn::activate(Activation::silu, mx::slice(x, {1, 3}, {4, 12}, {2, 2})).eval();
  EXPECT_EQ(values(x), kept);  // what somebody holds is not written over
  nn::activate(Activation::silu, x).eval();
  EXPECT_EQ(values(x), kept);
}

TEST(Activate, DerivativesAreThoseOfTheSteps) {
  float worst = 0;
  size_t compared = 0;
  const auto compare = [&](const mx::array& ours, const mx::array& theirs) {
    const auto a = values(ours), b = values(theirs);
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      const float error = std::abs(a[i] - b[i]) / (1 + std::abs(b[i]));
      ASSERT_LE(error, 2e-6f) << a[i] << " for " << b[i];
      worst = std::max(worst, error);
    }
    compared += a.size();
  };
  for (const auto activation : activations)
    for (const int n : {1, 15, 17, 20001}) {
      const auto x = mx::concatenate(
          {6.0f * random({n}, 1), mx::array({0.0f, -40.0f, 40.0f})});
      const auto up = random({n + 3}, 2), of = random({n + 3}, 3);
      const auto gradients = [&](const auto& f) {
        return mx::vjp(f, {x, up}, {of}).second;
      };
      const auto ours = gradients([&](const std::vector<mx::array>& in) {
        return std::vector{nn::activate(activation, in[0], in[1])};
      });
      const auto theirs = gradients([&](const std::vector<mx::array>& in) {
        return std::vector{steps(activation, in[0]) * in[1]};
      });
      for (size_t i = 0; i < 2; ++i)
        compare(ours[i], theirs[i]);
      // Beyond, MLX's tanh has no second derivative.
      const auto mild = 0.25f * x;
      const auto curve = [&](const auto& f) {
        const auto slope = [&](const mx::array& y) {
          return mx::vjp(
                     [&](const std::vector<mx::array>& in) {
                       return std::vector{f(in[0])};
                     },
                     {y},
                     {of})
              .second[0];
        };
        return mx::vjp(
                   [&](const std::vector<mx::array>& in) {
                     return std::vector{slope(in[0])};
                   },
                   {mild},
                   {up})
            .second[0];
      };
      compare(
          curve(
              [&](const mx::array& y) { return nn::activate(activation, y); }),
          curve([&](const mx::array& y) { return steps(activation, y); }));
      // One that is mapped over many.
      const auto mapped = [&](const auto& f) {
        return mx::vmap(std::function([&](const std::vector<mx::array>& row) {
          return mx::vjp(f, {x, up}, row).second;
        }))({mx::stack({of, up, of * up})});
      };
      const auto many = mapped([&](const std::vector<mx::array>& in) {
        return std::vector{nn::activate(activation, in[0], in[1])};
      });
      const auto plain = mapped([&](const std::vector<mx::array>& in) {
        return std::vector{steps(activation, in[0]) * in[1]};
      });
      for (size_t i = 0; i < 2; ++i)
        compare(many[i], plain[i]);
    }
  EXPECT_EQ(compared, std::size(activations) * 9 * (4 + 18 + 20 + 20004));
  fmt::print("{} derivatives within {}\n", compared, worst);
}

TEST(Activate, NanAndInf) {
  const mx::array x({nan, inf, -inf, 1.0f, -100.0f, 100.0f});
  for (const auto activation : activations)
    expect_same_kind(nn::activate(activation, x), steps(activation, x));
}

TEST(Activate, HalfPrecisionIsRoundedOnce) {
  for (const auto dtype : {mx::float16, mx::bfloat16}) {
    const auto x = mx::astype(random({64}, 3), dtype);
    const auto factor = mx::astype(random({64}, 4), dtype);
    const auto y = nn::activate(Activation::silu, x, factor);
    EXPECT_EQ(y.dtype(), dtype);
    const auto wide = mx::astype(x, mx::float32);
    const auto exact =
        wide * mx::sigmoid(wide) * mx::astype(factor, mx::float32);
    // A sum that lies between two numbers may go to either, and processors
    // differ in the last bit of it; two roundings would go astray in many.
    const auto off = mx::abs(
        mx::astype(y, mx::float32) -
        mx::astype(mx::astype(exact, dtype), mx::float32));
    const float ulp = dtype == mx::float16 ? 0x1p-10f : 0x1p-7f;
    EXPECT_TRUE(mx::all(mx::less_equal(off, mx::array(ulp) * mx::abs(exact)))
                    .item<bool>());
    auto astray = mx::sum(mx::greater(off, mx::array(0.0f)));
    EXPECT_LE(astray.item<int>(), 2);
  }
}

// On a CUDA GPU these are kernels of our own, elsewhere MLX's ops.
TEST(Activate, HalfPrecisionInAnyLayout) {
  const auto wide = [](const mx::array& x) {
    return values(mx::astype(x, mx::float32));
  };
  for (const auto dtype : {mx::float16, mx::bfloat16})
    for (const auto activation : activations)
      for (const int n : {1, 3, 64, 1000, 100004})
        for (const int from : {0, 1}) {
          // From 1 on: a view that starts inside the buffer.
          const auto some = [&](unsigned seed) {
            const auto whole = mx::multiply(
                random({n + from}, seed), mx::array(4.0f, mx::float32));
            return mx::slice(mx::astype(whole, dtype), {from}, {n + from});
          };
          const auto x = some(8), by = some(9);
          const auto y = nn::activate(activation, x);
          const auto z = nn::activate(activation, x, by);
          ASSERT_EQ(y.dtype(), dtype);
          ASSERT_EQ(z.dtype(), dtype);
          const auto in = wide(x), factor = wide(by), ours = wide(y),
                     gated = wide(z);
          ASSERT_EQ(ours.size(), static_cast<size_t>(n));
          ASSERT_EQ(gated.size(), static_cast<size_t>(n));
          // Three roundings, where there is no kernel.
          const double share = 3 * (dtype == mx::float16 ? 0x1p-11 : 0x1p-8);
          for (size_t i = 0; i < in.size(); ++i) {
            const double wanted = exact(activation, in[i]);
            const double times = wanted * factor[i];
            ASSERT_NEAR(ours[i], wanted, share * std::abs(wanted) + 1e-6)
                << static_cast<int>(activation) << " of " << in[i];
            ASSERT_NEAR(
                gated[i],
                times,
                share * std::abs(times) + 1e-6 * (1 + std::abs(factor[i])))
                << static_cast<int>(activation) << " of " << in[i];
          }
        }
}

TEST(Activate, Derivatives) {
  const auto x = random({3, 33}, 4), y = random({3, 33}, 5);
  for (const auto activation : activations) {
    const auto ours = [&](const std::vector<mx::array>& in) {
      return std::vector{nn::activate(activation, in[0], in[1])};
    };
    const auto theirs = [&](const std::vector<mx::array>& in) {
      return std::vector{steps(activation, in[0]) * in[1]};
    };
    const auto a = mx::vjp(ours, {x, y}, {y}).second;
    const auto b = mx::vjp(theirs, {x, y}, {y}).second;
    expect_near(a[0], b[0], 1e-5, "by x");
    expect_near(a[1], b[1], 1e-5, "by the factor");
    expect_near(
        mx::jvp(ours, {x, y}, {y, x}).second[0],
        mx::jvp(theirs, {x, y}, {y, x}).second[0],
        1e-5,
        "forward");
    expect_near(
        mx::vmap(ours, {1, 1}, {0})({x, y})[0],
        mx::vmap(theirs, {1, 1}, {0})({x, y})[0],
        1e-5,
        "mapped");
  }
}

TEST(RmsNorm, AgainstMlx) {
  for (const int n : {1, 3, 16, 31, 33, 576})
    for (const int rows : {0, 1, 5, 300}) {
      nn::Norm norm(n, {.kind = nn::NormConfig::Kind::rms, .eps = 1e-5f});
      norm.weight = random({n}, 6);
      const auto x = random({2, rows, n}, 7);
      Pass pass;
      const auto plain = [&](const mx::array& in) {
        return mx::fast::rms_norm(in, norm.weight, 1e-5f);
      };
      const double ulps = rows ? 4e-7 * test::max_magnitude(plain(x)) : 0;
      expect_near(norm.forward(x, pass), plain(x), ulps, "dense");
      const auto turned = mx::swapaxes(x, 0, 1);
      expect_near(norm.forward(turned, pass), plain(turned), ulps, "turned");
      if (rows == 0) continue;
      const auto loss = [&](const auto& f) {
        return mx::grad(
            [&](const mx::array& in) { return mx::sum(mx::square(f(in))); })(x);
      };
      expect_near(
          loss([&](const mx::array& in) { return norm.forward(in, pass); }),
          loss(plain),
          1e-4,
          "gradient");
    }
  nn::Norm norm(4, {.kind = nn::NormConfig::Kind::rms, .eps = 1e-5f});
  const auto odd = mx::reshape(
      mx::array({nan, 1, 2, 3, inf, 1, 2, 3, 1e30f, 1, 2, 3, 0, 0, 0, 0}),
      {4, 4});
  Pass pass;
  expect_same_kind(
      norm.forward(odd, pass), mx::fast::rms_norm(odd, norm.weight, 1e-5f));
}

TEST(Rope, AgainstMlx) {
  for (const bool interleaved : {false, true})
    for (const int dims : {2, 10, 16})
      for (const int offset : {0, 7}) {
        const nn::Rope rope{
            .dims = dims,
            .theta = 1e4f,
            .interleaved = interleaved,
            .scale = 0.5f};
        const auto x = random({2, 3, 300, 16}, 15);
        const auto plain = [&](const mx::array& in) {
          return mx::fast::rope(in, dims, interleaved, 1e4f, 0.5f, offset);
        };
        expect_near(rope(x, offset), plain(x), 1e-4, "dense");
        const auto turned = mx::swapaxes(random({2, 3, 16, 30}, 16), 2, 3);
        expect_near(rope(turned, offset), plain(turned), 1e-5, "turned");
        const auto gradient = [&](const auto& f) {
          return mx::grad(
              [&](const mx::array& in) { return mx::sum(x * x * f(in)); })(x);
        };
        expect_near(
            gradient([&](const mx::array& in) { return rope(in, offset); }),
            gradient(plain),
            1e-4,
            "gradient");
      }
}

struct AttentionCase {
  int batch, heads, kv_heads, dest, src, d_head, window;
  int chunk = 0;
};

mx::array attended(
    const AttentionCase& c,
    const mx::array& q,
    const mx::array& k,
    const mx::array& v,
    float scale,
    const float* sinks = nullptr,
    const float* slopes = nullptr) {
  mx::eval({q, k, v});
  const auto heads = [](const mx::array& x) {
    const auto& s = x.strides();
    return simd::Heads{x.data<float>(), {s[0], s[1], s[2], s[3]}};
  };
  const auto n = [](int value) { return static_cast<size_t>(value); };
  std::vector<float> out(n(c.batch * c.dest * c.heads * c.d_head), -7);
  simd::attend(
      {n(c.batch),
       n(c.heads),
       n(c.kv_heads),
       n(c.dest),
       n(c.src),
       n(c.d_head),
       n(c.window),
       scale,
       sinks,
       slopes,
       n(c.chunk)},
      heads(q),
      heads(k),
      heads(v),
      out.data());
  return mx::swapaxes(
      mx::array(out.data(), {c.batch, c.dest, c.heads, c.d_head}), 1, 2);
}

mx::array mask_of(const AttentionCase& c) {
  const auto to = mx::reshape(mx::arange(c.src - c.dest, c.src), {c.dest, 1});
  const auto from = mx::arange(c.src);
  auto seen = mx::greater_equal(to, from);
  if (c.window > 0)
    seen = mx::logical_and(seen, mx::less(to - from, mx::array(c.window)));
  if (c.chunk == 0) return seen;
  const mx::array by(c.chunk);
  return mx::logical_and(
      seen, mx::equal(mx::floor_divide(to, by), mx::floor_divide(from, by)));
}

TEST(Attend, AgainstMlx) {
  for (const auto& c : std::vector<AttentionCase>{
           {1, 1, 1, 1, 1, 1, 0},
           {1, 1, 1, 1, 1, 64, 0},
           {2, 4, 2, 7, 7, 2, 0},
           {1, 9, 3, 16, 16, 64, 0},
           {2, 6, 2, 49, 49, 33, 0},
           {1, 2, 1, 130, 130, 80, 0},
           {1, 2, 2, 5, 77, 16, 0},
           {1, 2, 2, 1, 77, 16, 0},
           {2, 2, 1, 60, 60, 16, 1},
           {2, 2, 1, 60, 60, 16, 7},
           {1, 2, 1, 100, 200, 24, 33},
           {1, 2, 1, 100, 100, 24, 99},
           {1, 2, 1, 100, 100, 24, 1000},
           {2, 2, 1, 60, 60, 16, 0, 7},
           {1, 2, 1, 100, 200, 24, 0, 33},
           {1, 2, 2, 1, 77, 16, 0, 1},
           {1, 2, 1, 100, 100, 24, 5, 16}}) {
    const auto q = random({c.batch, c.heads, c.dest, c.d_head}, 8);
    const auto k = random({c.batch, c.kv_heads, c.src, c.d_head}, 9);
    const auto v =
        mx::swapaxes(random({c.batch, c.src, c.kv_heads, c.d_head}, 10), 1, 2);
    const auto wanted = mx::fast::scaled_dot_product_attention(
        q, k, v, 0.3f, "array", mask_of(c));
    // Scores reach 10, where float32 is exact to 1e-6 after a sum of products;
    // that is the relative error of a weight of values up to 4.
    expect_near(
        attended(c, q, k, v, 0.3f),
        wanted,
        1e-5,
        std::to_string(c.dest) + " x " + std::to_string(c.src));
    // Of each head, a score for nothing, and what every position between costs.
    const std::vector<float> sinks{-2, 0.5f, 9, 30, -40, 1, 3, 0, 12};
    const std::vector<float> slopes{0.5f, 0.25f, 0, 1, 8, 1e-3f, 2, 0.1f, 0.7f};
    const auto distance = mx::subtract(
        mx::arange(c.src),
        mx::reshape(mx::arange(c.src - c.dest, c.src), {c.dest, 1}));
    const auto biases = mx::where(
        mask_of(c),
        mx::multiply(
            mx::array(slopes.data(), {c.heads, 1, 1}),
            mx::astype(distance, mx::float32)),
        mx::array(-inf));
    const mx::array nothing(sinks.data(), {c.heads});
    for (const bool with_sinks : {false, true})
      for (const bool biased : {false, true})
        expect_near(
            attended(
                c,
                q,
                k,
                v,
                0.3f,
                with_sinks ? sinks.data() : nullptr,
                biased ? slopes.data() : nullptr),
            mx::fast::scaled_dot_product_attention(
                q,
                k,
                v,
                0.3f,
                "array",
                biased ? biases : mask_of(c),
                with_sinks ? std::optional(nothing) : std::nullopt),
            1e-5,
            fmt::format("sinks {}, slopes {}", with_sinks, biased));
    // Nothing of it dense.
    const auto turned = [](const mx::array& x) {
      auto other = mx::contiguous(mx::swapaxes(x, 2, 3));
      return mx::swapaxes(other, 2, 3);
    };
    expect_near(
        attended(c, turned(q), turned(k), turned(v), 0.3f),
        attended(c, q, k, v, 0.3f),
        1e-5,
        "turned");
  }
}

TEST(Attend, LargeScoresAndNan) {
  const AttentionCase c{1, 1, 1, 20, 20, 16, 0};
  const auto q = random({1, 1, 20, 16}, 11) * mx::array(100.0f);
  const auto k = random({1, 1, 20, 16}, 12) * mx::array(100.0f);
  const auto v = random({1, 1, 20, 16}, 13);
  const auto wanted = mx::fast::scaled_dot_product_attention(
      q, k, v, 1.0f, "array", mask_of(c));
  expect_near(attended(c, q, k, v, 1.0f), wanted, 1e-4, "large");
  // A destination that is NaN or sees what is NaN or Inf is NaN; those before
  // the odd key stay as they are.
  for (const float odd : {nan, inf}) {
    const auto at =
        mx::reshape(mx::equal(mx::arange(20), mx::array(9)), {20, 1});
    const auto broken = mx::where(at, mx::array(odd), k);
    expect_same_kind(
        attended(c, q, broken, v, 1.0f),
        mx::fast::scaled_dot_product_attention(
            q, broken, v, 1.0f, "array", mask_of(c)));
  }
}

// Sees everything, so that every fused path is opened.
struct Opened : Observer {
  mx::array at(SiteId, mx::array value) override { return value; }
  bool edits(SiteId) const override { return true; }
  void offer(SiteId, std::function<mx::array()>) override {}
};

TEST(Attend, TheModuleAndItsDerivatives) {
  for (const int window : {0, 4, 5}) {
    nn::AttentionConfig config;
    config.d_model = 24;
    config.n_heads = 4;
    config.n_kv_heads = 2;
    config.d_head = 6;
    config.rope.dims = 6;
    config.window = window;
    if (window == 5) {
      config.sinks = true;
      config.alibi.slopes = {1, 0.5f, 0.25f, 2};
    }
    nn::Attention attention(config);
    if (config.sinks) *attention.sinks = mx::array({1.0f, -1.0f, 3.0f, 0.0f});
    const auto x = random({2, 11, 24}, 14);
    const auto forward = [&](bool opened) {
      return [&, opened](const mx::array& in) {
        Opened observer;
        Pass plain, open(observer);
        return attention.forward(in, opened ? open : plain);
      };
    };
    expect_near(forward(false)(x), forward(true)(x), 1e-5, "forward");
    const auto gradient = [&](bool opened) {
      return mx::grad([f = forward(opened)](const mx::array& in) {
        return mx::sum(mx::square(f(in)));
      })(x);
    };
    expect_near(gradient(false), gradient(true), 1e-4, "gradient");
  }
}

}  // namespace
}  // namespace mlxterp
