// Products of few rows against double precision, and against MLX's ops.

#include "nn/product.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "mlx/mlx.h"
#include "mlxterp/nn/linear.h"
#include "nn/simd/few_rows.h"
#include "tests/compare.h"

// Those that few_rows.cpp is compiled for.
#define HWY_DISABLED_TARGETS \
  (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#include "hwy/targets.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using nn::product;
using nn::product_of_each;
using simd::Stored;

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
const std::vector<mx::Dtype> dtypes{mx::float32, mx::float16, mx::bfloat16};

mx::array random(
    const mx::Shape& shape, unsigned seed, mx::Dtype dtype = mx::float32) {
  auto x = mx::astype(
      mx::random::normal(shape, mx::float32, 0, 1, mx::random::key(seed)),
      dtype);
  x.eval();
  return x;
}

mx::array wide(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

std::vector<float> values(const mx::array& x) {
  auto dense = mx::contiguous(wide(x));
  dense.eval();
  return {dense.data<float>(), dense.data<float>() + dense.size()};
}

// With the instructions of every processor that this one can stand in for.
template <typename Test>
void on_all_targets(const Test& test) {
  int tested = 0;
  for (const auto target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    SCOPED_TRACE(hwy::TargetName(target));
    test();
    ++tested;
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  EXPECT_GE(tested, 1);
}

Stored stored(mx::Dtype dtype) {
  return dtype == mx::float16    ? Stored::float16
         : dtype == mx::bfloat16 ? Stored::bfloat16
                                 : Stored::float32;
}

std::vector<float> multiplied(
    const std::vector<float>& x, const mx::array& w, size_t threads = 2) {
  const auto n = static_cast<size_t>(w.shape(0));
  const auto columns = static_cast<size_t>(w.shape(1));
  const size_t rows = x.size() / columns;
  std::vector<float> out(rows * n, -7);
  const simd::Product one{x.data(), rows, w.data<void>(), out.data()};
  simd::multiply({n, columns, stored(w.dtype())}, {&one, 1}, threads);
  return out;
}

// How far off each sum may be: every addition rounds, every product once.
void expect_right(
    const std::vector<float>& x,
    const std::vector<float>& w,
    size_t columns,
    const std::vector<float>& out,
    const std::string& what) {
  const size_t rows = x.size() / columns, n = w.size() / columns;
  ASSERT_EQ(out.size(), rows * n) << what;
  for (size_t i = 0; i < rows; ++i)
    for (size_t j = 0; j < n; ++j) {
      double sum = 0, size = 0;
      for (size_t k = 0; k < columns; ++k) {
        const double part = double{x[i * columns + k]} * w[j * columns + k];
        sum += part;
        size += std::abs(part);
      }
      const double bound = (static_cast<double>(columns) + 2) * 0x1p-24 * size;
      ASSERT_LE(std::abs(out[i * n + j] - sum), bound)
          << what << " at " << i << ", " << j;
    }
}

TEST(FewRows, AgainstDoublePrecisionAtOddSizes) {
  on_all_targets([] {
    for (const auto dtype : dtypes)
      for (const int columns : {1, 16, 47, 1041, 2083})
        for (const int n : {1, 3, 4, 11}) {
          const auto w = random({n, columns}, 1, dtype);
          for (const int rows : {1, 2, 4, 5, 7, 12, 17}) {
            const auto x = values(random({rows, columns}, 2));
            expect_right(
                x,
                values(w),
                static_cast<size_t>(columns),
                multiplied(x, w),
                fmt::format("{} by [{}, {}]", rows, n, columns));
          }
        }
  });
}

TEST(FewRows, EveryNumberOfRowsAndOfThreads) {
  for (const auto dtype : dtypes) {
    const auto w = random({71, 259}, 3, dtype);
    for (int rows = 0; rows <= 33; ++rows) {
      const auto x = values(random({rows, 259}, 4));
      for (const size_t threads : {1, 2, 5})
        expect_right(
            x,
            values(w),
            259,
            multiplied(x, w, threads),
            fmt::format("{}", rows));
    }
  }
}

// One number of each row of w, the rest zeros.
TEST(FewRows, EveryNumberOfHalfPrecisionIsWidenedExactly) {
  constexpr int all = 1 << 16;
  std::vector<uint16_t> bits(size_t{all} * 17);
  for (size_t i = 0; i < all; ++i)
    bits[i * 17 + i % 17] = static_cast<uint16_t>(i);
  for (const auto dtype : {mx::float16, mx::bfloat16}) {
    auto w = mx::view(mx::array(bits.data(), {all, 17}, mx::uint16), dtype);
    auto wanted = mx::view(mx::arange(0, all, mx::uint16), dtype);
    w.eval();
    const auto numbers = values(wanted);
    on_all_targets([&] {
      for (const size_t rows : {1, 5}) {  // widened as read, and before
        const auto out = multiplied(std::vector<float>(rows * 17, 1.0f), w);
        ASSERT_EQ(out.size(), rows * all);
        size_t same = 0;
        for (size_t i = 0; i < out.size(); ++i) {
          const float number = numbers[i % all];
          same += std::isnan(number) ? std::isnan(out[i]) : out[i] == number;
        }
        EXPECT_EQ(same, out.size()) << rows;
      }
    });
  }
}

TEST(FewRows, NanAndInfStayInTheirRows) {
  for (const auto dtype : dtypes) {
    auto x = values(random({6, 37}, 5));
    x[1 * 37 + 36] = nan;
    x[2 * 37 + 3] = inf;
    auto numbers = values(random({5, 37}, 6));
    numbers[4 * 37 + 20] = -inf;
    auto w = mx::astype(mx::array(numbers.data(), {5, 37}, mx::float32), dtype);
    w.eval();
    const auto out = multiplied(x, w);
    for (size_t i = 0; i < 6; ++i)
      for (size_t j = 0; j < 5; ++j) {
        const float value = out[i * 5 + j];
        if (i == 1)
          EXPECT_TRUE(std::isnan(value)) << i << ", " << j;
        else if (i == 2 || j == 4)
          EXPECT_FALSE(std::isfinite(value)) << i << ", " << j;
        else
          EXPECT_TRUE(std::isfinite(value)) << i << ", " << j;
      }
  }
}

TEST(Product, AnyLayoutAndBothSidesOfTheSwitch) {
  for (const auto dtype : dtypes) {
    const auto w = random({70, 37}, 7, dtype);
    const auto check = [&](const mx::array& x, const mx::array& by) {
      const auto wanted = mx::matmul(x, mx::transpose(wide(by)));
      const auto y = product(x, by);
      EXPECT_EQ(y.dtype(), mx::float32);
      EXPECT_EQ(y.shape(), wanted.shape());
      test::expect_close(y, wanted, 2e-5, wanted.size(), "product");
    };
    for (const int rows : {1, 8, 63, 64, 65, 200})
      check(random({rows, 37}, 8), w);
    const auto x = random({2, 3, 37}, 9);
    check(x, w);
    check(mx::swapaxes(x, 0, 1), w);
    check(mx::swapaxes(random({2, 37, 3}, 10), 1, 2), w);
    check(mx::slice(random({4, 80}, 11), {1, 3}, {4, 77}, {1, 2}), w);
    check(mx::broadcast_to(random({1, 37}, 12), {4, 37}), w);
    // Rows of a larger one, its transpose, columns of it; made and to be made.
    for (const bool made : {false, true}) {
      auto rows = mx::slice(w, {3, 0}, {40, 37});
      auto turned = mx::transpose(random({37, 9}, 13, dtype));
      auto columns = mx::slice(random({9, 80}, 14, dtype), {0, 5}, {9, 42});
      if (made) mx::eval(rows, turned, columns);
      for (const auto& by : {rows, turned, columns})
        check(x, by);
    }
  }
  EXPECT_EQ(product(random({0, 37}, 15), random({5, 37}, 16)).size(), 0u);
}

TEST(Product, OnlyFewRowsInFloat32AreReadOnce) {
  const auto w = random({70, 37}, 17);
  EXPECT_TRUE(nn::reads_once(random({1, 37}, 18), w));
  EXPECT_TRUE(nn::reads_once(random({2, 8, 37}, 18), w));
  EXPECT_FALSE(nn::reads_once(random({500, 37}, 18), w));
  EXPECT_FALSE(nn::reads_once(random({1, 37}, 18, mx::float16), w));
  auto turned = mx::transpose(random({37, 70}, 19));
  turned.eval();
  EXPECT_FALSE(nn::reads_once(random({1, 37}, 18), turned));
}

// As MLX has them of its own ops.
void expect_same_derivatives(
    const std::function<mx::array(const mx::array&)>& ours,
    const std::function<mx::array(const mx::array&)>& theirs,
    const mx::array& x) {
  const auto one = [](const auto& f) {
    return [&f](const std::vector<mx::array>& in) {
      return std::vector{f(in[0])};
    };
  };
  const auto c = random(theirs(x).shape(), 20);
  const auto a = mx::vjp(one(ours), {x}, {c}).second[0];
  const auto b = mx::vjp(one(theirs), {x}, {c}).second[0];
  test::expect_close(a, b, 1e-4, x.size(), "by x");
}

TEST(Product, DerivativesAndMaps) {
  for (const auto dtype : dtypes) {
    const auto w = random({11, 37}, 21, dtype), x = random({2, 3, 37}, 22);
    const auto plain = [](const mx::array& in, const mx::array& by) {
      return mx::matmul(in, mx::transpose(wide(by)));
    };
    expect_same_derivatives(
        [&](const mx::array& in) { return product(in, w); },
        [&](const mx::array& in) { return plain(in, w); },
        x);
    const auto ours = [](const std::vector<mx::array>& in) {
      return std::vector{product(in[0], in[1])};
    };
    const auto theirs = [&](const std::vector<mx::array>& in) {
      return std::vector{plain(in[0], in[1])};
    };
    const auto c = random({2, 3, 11}, 23);
    test::expect_close(
        mx::vjp(ours, {x, w}, {c}).second[1],
        mx::vjp(theirs, {x, w}, {c}).second[1],
        dtype == mx::float32 ? 1e-4 : 0.1,
        w.size(),
        "by w");
    test::expect_close(
        mx::jvp(ours, {x, w}, {x, w}).second[0],
        mx::jvp(theirs, {x, w}, {x, w}).second[0],
        1e-4,
        c.size(),
        "forward");
    test::expect_close(
        mx::vmap([&](const mx::array& in) { return product(in, w); }, 1, 1)(x),
        plain(x, w),
        1e-4,
        c.size(),
        "mapped");
  }
}

TEST(ProductOfEach, EachRowThroughItsOwn) {
  for (const auto dtype : dtypes)
    for (const int uses : {1, 3}) {
      const auto stack = random({5, 11, 37}, 24, dtype);
      const auto x = random({2, 4, uses == 1 ? 3 : 1, 1, 37}, 25);
      const mx::array which(
          {4, 0, 1, 4, 4, 2, 0, 1, 2, 2, 2, 4,
           4, 0, 1, 1, 0, 4, 2, 1, 0, 0, 0, 4},
          {2, 4, 3});
      const auto wanted = [&](const mx::array& in) {
        return mx::gather_mm(
            in, mx::swapaxes(wide(stack), 1, 2), std::nullopt, which);
      };
      const auto y = product_of_each(x, stack, which);
      EXPECT_EQ(y.shape(), mx::Shape({2, 4, 3, 1, 11}));
      test::expect_close(y, wanted(x), 2e-5, 264, "of each");
      // Each of these in double precision besides.
      const auto in = values(x), numbers = values(stack), out = values(y);
      const auto ids = values(which);
      const size_t step = uses == 1 ? 1 : 3;
      for (size_t i = 0; i < 24; ++i)
        for (size_t j = 0; j < 11; ++j) {
          double sum = 0;
          for (size_t k = 0; k < 37; ++k)
            sum += double{in[i / step * 37 + k]} *
                   numbers[(static_cast<size_t>(ids[i]) * 11 + j) * 37 + k];
          ASSERT_NEAR(out[i * 11 + j], sum, 2e-5) << i << ", " << j;
        }
      expect_same_derivatives(
          [&](const mx::array& from) {
            return product_of_each(from, stack, which);
          },
          wanted,
          x);
    }
}

TEST(Matrix, HalfPrecisionReadInFloat32) {
  for (const auto dtype : {mx::float16, mx::bfloat16}) {
    // Large enough to be widened in pieces.
    for (const int n : {23, 60000}) {
      nn::Matrix matrix(random({n, 37}, 26, dtype));
      const auto numbers = wide(matrix.dense());
      matrix.read_as(mx::float32);
      EXPECT_EQ(matrix.dtype(), mx::float32);
      EXPECT_EQ(matrix.dense().dtype(), dtype);
      EXPECT_EQ(matrix.numbers().dtype(), mx::float32);
      EXPECT_EQ(test::max_difference(matrix.numbers(), numbers), 0);
      const mx::array ids({3, 0, 22});
      EXPECT_EQ(
          test::max_difference(matrix.take(ids), mx::take(numbers, ids, 0)), 0);
      const auto bias = random({n}, 27);
      for (const int rows : {1, 20, 100}) {
        const auto x = random({rows, 37}, 28);
        const auto plain = [&](const mx::array& in) {
          return mx::addmm(bias, in, mx::transpose(numbers));
        };
        const auto y = matrix.times(x, bias);
        test::expect_close(y, plain(x), 2e-5, y.size(), "times");
        if (n == 23)
          expect_same_derivatives(
              [&](const mx::array& in) { return matrix.times(in, bias); },
              plain,
              x);
      }
    }
    nn::Matrix stack(random({4, 11, 37}, 29, dtype));
    stack.read_as(mx::float32);
    const auto x = random({1, 2, 1, 1, 37}, 30);
    const mx::array which({3, 0, 1, 2}, {1, 2, 2});
    test::expect_close(
        stack.gather(x, which),
        mx::gather_mm(
            x, mx::swapaxes(stack.numbers(), 1, 2), std::nullopt, which),
        2e-5,
        44,
        "gather");
  }
}

TEST(Linear, ABiasIsAddedToFewRowsAndToMany) {
  nn::Linear linear(37, 11, true);
  linear.weight = random({11, 37}, 31);
  linear.bias = random({11}, 32);
  Pass pass;
  for (const int rows : {1, 200}) {
    const auto x = random({1, rows, 37}, 33);
    const auto y = linear.forward(x, pass);
    test::expect_close(
        y,
        mx::matmul(x, mx::transpose(linear.weight.numbers())) + *linear.bias,
        2e-5,
        y.size(),
        "linear");
  }
}

}  // namespace
}  // namespace mlxterp
