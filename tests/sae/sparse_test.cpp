// The largest of rows and sums of chosen rows: loops, MLX's operations and, on
// a CUDA GPU, kernels of our own, beside a sort and dense products.

#include "sae/train/sparse.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "nn/cuda/ampere.h"

namespace mlxterp::sae_train {

namespace {

namespace mx = mlx::core;

mx::array random(mx::Shape shape, uint64_t seed) {
  return mx::random::normal(
      std::move(shape), mx::float32, 0, 1, mx::random::key(seed));
}

std::vector<float> numbers(const mx::array& x) {
  auto wide = mx::contiguous(mx::astype(x, mx::float32));
  wide.eval();
  return {wide.data<float>(), wide.data<float>() + wide.size()};
}

std::vector<int> integers(const mx::array& x) {
  auto own = mx::contiguous(x);
  own.eval();
  return {own.data<int>(), own.data<int>() + own.size()};
}

// Of MLX's own operations, which of equal numbers is chosen is not said.
bool first_of_equal(Engine engine) {
  return engine == Engine::loops || default_engine() == Engine::ops;
}

struct Choice {
  const char* name;
  mx::array pre;
  int k;
  bool by = false, some = false;
};

// By a sort, of one row, ascending.
std::vector<int> sorted_choice(
    const std::vector<float>& ranks,
    size_t begin,
    const std::vector<int>& among,
    int k) {
  auto order = among;
  std::ranges::stable_sort(order, [&](int a, int b) {
    return ranks[begin + static_cast<size_t>(a)] >
           ranks[begin + static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(k));
  std::ranges::sort(order);
  return order;
}

}  // namespace

TEST(Sparse, TheLargestOfEachRow) {
  const auto steps = [](const mx::array& x, float by) {
    return mx::multiply(
        mx::round(mx::multiply(x, mx::array(1 / by))), mx::array(by));
  };
  const std::vector<Choice> choices = {
      {"one", random({3, 64}, 1), 1},
      {"some", random({5, 4104}, 2), 64},
      {"all", random({2, 32}, 3), 32},
      {"many", random({3, 8192}, 4), 1024},
      {"by norms", random({4, 4096}, 5), 32, true},
      {"of some", random({4, 4096}, 6), 16, false, true},
      {"of some by norms", random({4, 4096}, 7), 16, true, true},
      {"many alike", steps(random({3, 16384}, 8), 1.0f), 40},
      {"all alike", mx::zeros({2, 8192}), 100},
      {"negative", mx::subtract(random({3, 2048}, 9), mx::array(10.0f)), 12},
      {"bfloat16", mx::astype(random({3, 8192}, 10), mx::bfloat16), 64},
      {"bfloat16 by norms",
       mx::astype(random({3, 8192}, 11), mx::bfloat16),
       64,
       true},
      {"no multiple of eight", random({3, 1003}, 12), 10}};
  size_t compared = 0;
  for (const auto& choice : choices) {
    const auto& pre = choice.pre;
    const int rows = pre.shape(0), width = pre.shape(1);
    std::optional<mx::array> by;
    if (choice.by) by = mx::add(mx::abs(random({width}, 20)), mx::array(0.1f));
    std::vector<int> among(static_cast<size_t>(width));
    std::iota(among.begin(), among.end(), 0);
    if (choice.some) {
      std::erase_if(among, [](int i) { return i % 3 != 0; });
      among.resize(among.size() / 8 * 8);
    }
    const auto all = numbers(pre);
    auto ranks = all;
    if (by) {
      const auto factors = numbers(*by);
      for (size_t i = 0; i < ranks.size(); ++i)
        ranks[i] *= factors[i % static_cast<size_t>(width)];
    }
    for (const auto engine : {Engine::loops, Engine::ops}) {
      const auto found = top_of_rows(
          Ranked(pre, by),
          choice.k,
          choice.some ? std::optional(among) : std::nullopt,
          engine);
      const auto row_of = integers(found.rows), cols = integers(found.cols);
      const auto values = numbers(found.values);
      ASSERT_EQ(found.size(), rows * choice.k) << choice.name;
      for (int r = 0; r < rows; ++r) {
        const auto begin = static_cast<size_t>(r) * static_cast<size_t>(width);
        const auto wanted = sorted_choice(ranks, begin, among, choice.k);
        std::vector<int> own;
        for (size_t i = 0; i < static_cast<size_t>(choice.k); ++i) {
          const auto at =
              static_cast<size_t>(r) * static_cast<size_t>(choice.k) + i;
          ASSERT_EQ(row_of[at], r) << choice.name;
          own.push_back(cols[at]);
          const auto pre_there = all[begin + static_cast<size_t>(cols[at])];
          EXPECT_NEAR(values[at], pre_there, 1e-6f * std::abs(pre_there))
              << choice.name;
          ++compared;
        }
        std::ranges::sort(own);
        if (first_of_equal(engine) && width % 8 == 0) {
          EXPECT_EQ(own, wanted) << choice.name << ", row " << r;
          continue;
        }
        EXPECT_EQ(std::unique(own.begin(), own.end()), own.end());
        const auto ranked = [&](const std::vector<int>& places) {
          std::vector<float> out;
          for (const int place : places)
            out.push_back(ranks[begin + static_cast<size_t>(place)]);
          std::ranges::sort(out);
          return out;
        };
        EXPECT_EQ(ranked(own), ranked(wanted)) << choice.name;
      }
    }
  }
  std::printf("%zu places\n", compared);
  EXPECT_GT(compared, 8000u);
}

TEST(Sparse, TheLargestOfAll) {
  const auto steps = [](const mx::array& x, float by) {
    return mx::multiply(
        mx::round(mx::multiply(x, mx::array(1 / by))), mx::array(by));
  };
  const std::vector<Choice> choices = {
      {"one", random({3, 64}, 1), 1},
      {"some", random({37, 4104}, 2), 64},
      {"by norms", random({40, 4096}, 5), 300, true},
      {"many alike", steps(random({9, 4096}, 8), 1.0f), 4000},
      {"all of them", random({5, 64}, 3), 320},
      {"more than there are above 0",
       mx::subtract(random({6, 2048}, 9), mx::array(2.0f)),
       2000},
      {"large and small",
       mx::multiply(random({4, 2056}, 6), mx::exp(random({4, 2056}, 7))),
       1000},
      {"bfloat16", mx::astype(random({33, 8192}, 10), mx::bfloat16), 640},
      {"bfloat16 by norms",
       mx::astype(random({33, 8192}, 11), mx::bfloat16),
       640,
       true},
      {"no multiple of eight", random({3, 1003}, 12), 10}};
  size_t compared = 0;
  for (const auto& choice : choices) {
    const int width = choice.pre.shape(1);
    std::optional<mx::array> by;
    if (choice.by) by = mx::add(mx::abs(random({width}, 20)), mx::array(0.1f));
    const Ranked ranked(choice.pre, by);
    auto ranks = numbers(ranked.rank);
    for (auto& it : ranks)
      it = std::max(it, 0.0f);
    std::vector<int> all(ranks.size());
    std::iota(all.begin(), all.end(), 0);
    const auto wanted = sorted_choice(ranks, 0, all, choice.k);
    for (const auto engine : {Engine::loops, Engine::ops}) {
      const auto found = top_of_all(ranked, choice.k, engine);
      const auto rows = integers(found.rows), cols = integers(found.cols);
      const auto values = numbers(found.values);
      std::vector<int> own;
      for (size_t i = 0; i < rows.size(); ++i) {
        own.push_back(rows[i] * width + cols[i]);
        const auto rank = ranks[static_cast<size_t>(own.back())];
        EXPECT_NEAR(values[i], rank, 1e-6f * rank) << choice.name;
        ++compared;
      }
      EXPECT_TRUE(std::ranges::is_sorted(own)) << choice.name;
      auto places = wanted;
      if (engine == Engine::loops)
        std::erase_if(places, [&](int it) {
          return ranks[static_cast<size_t>(it)] <= 0;
        });
      if (first_of_equal(engine) && width % 8 == 0) {
        EXPECT_EQ(own, places) << choice.name;
        continue;
      }
      const auto sorted = [&](const std::vector<int>& from) {
        std::vector<float> out;
        for (const int place : from)
          out.push_back(ranks[static_cast<size_t>(place)]);
        std::ranges::sort(out);
        return out;
      };
      EXPECT_EQ(sorted(own), sorted(places)) << choice.name;
    }
  }
  std::printf("%zu places\n", compared);
  EXPECT_GT(compared, 15'000u);
}

TEST(Sparse, SumsAreThoseOfDenseProducts) {
  constexpr int rows = 37, features = 96, d = 264, k = 5;
  const auto pre = random({rows, features}, 1);
  float worst = 0;
  size_t compared = 0;
  for (const auto dtype : {mx::float32, mx::bfloat16}) {
    const auto W = mx::astype(random({features, d}, 2), dtype);
    const auto G = mx::astype(random({rows, d}, 3), dtype);
    for (const auto engine : {Engine::loops, Engine::ops}) {
      const auto at = top_of_rows(Ranked(pre), k, {}, engine);
      mx::eval(at.rows, at.cols, at.values);
      // The same as a matrix.
      std::vector<float> dense(static_cast<size_t>(rows * features));
      const auto row_of = integers(at.rows), cols = integers(at.cols);
      const auto values = numbers(at.values);
      for (size_t i = 0; i < row_of.size(); ++i)
        dense[static_cast<size_t>(row_of[i] * features + cols[i])] = values[i];
      const auto wide = [](const mx::array& x) {
        return mx::astype(x, mx::float32, mx::Device::cpu);
      };
      const auto product = [](const mx::array& a, const mx::array& b) {
        return mx::matmul(a, b, mx::Device::cpu);
      };
      const mx::array A(dense.data(), {rows, features});
      const auto all_dots = product(wide(G), mx::transpose(wide(W)));
      const auto places = by_feature(at, features, engine);
      const auto sum = outer(at, places, G, engine);
      const std::vector<std::pair<mx::array, mx::array>> pairs = {
          {decode(at, W, rows, engine), product(A, wide(W))},
          {dots(at, G, W, engine),
           mx::take(
               mx::flatten(all_dots),
               mx::add(mx::multiply(at.rows, mx::array(features)), at.cols))},
          {sum.rows, product(mx::transpose(A), wide(G))},
          {sum.values, mx::sum(A, 0)},
          {sums(at, features, engine), mx::sum(A, 0)}};
      for (const auto& [own, wanted] : pairs) {
        ASSERT_EQ(own.shape(), wanted.shape());
        ASSERT_EQ(own.dtype(), mx::float32);
        const auto a = numbers(own), b = numbers(wanted);
        for (size_t i = 0; i < a.size(); ++i) {
          const float off = std::abs(a[i] - b[i]);
          if (!(off <= worst)) worst = off;
          ++compared;
        }
      }
    }
  }
  std::printf("%zu numbers, %.1e apart at most\n", compared, worst);
  EXPECT_LE(worst, 1e-4f);  // of sums of some ten
  EXPECT_GT(compared, 140'000u);
}

}  // namespace mlxterp::sae_train
