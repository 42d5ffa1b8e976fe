#include "mlxterp/analysis/heads.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <set>

#include "mlx/linalg.h"
#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "mlxterp/core/paths.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mx = mlx::core;

namespace mlxterp {
namespace {

// Attention patterns as TransformerLens' head_detector.py draws them: the
// token's earlier ones, and those shifted to the right by one.
std::vector<float> drawn(HeadKind kind, const std::vector<int>& ids) {
  const size_t n = ids.size();
  std::vector<float> out(n * n);
  const auto earlier = [&](size_t i, size_t j) {
    return j < i && ids[i] == ids[j];
  };
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j)
      out[i * n + j] = kind == HeadKind::induction ? j > 0 && earlier(i, j - 1)
                       : kind == HeadKind::previous_token  ? i == j + 1
                       : kind == HeadKind::duplicate_token ? earlier(i, j)
                       : kind == HeadKind::first_token     ? j == 0
                                                           : i == j;
  return out;
}

// The scores of one pattern, by their definitions.
double by_definition(
    HeadMeasure measure,
    std::vector<float> wanted,
    std::vector<float> pattern,
    size_t n,
    const HeadOptions& options) {
  double sum = 0, all = 0, difference = 0;
  size_t rows = 0;
  for (size_t i = 0; i < n; ++i) {
    bool any = false;
    for (size_t j = 0; j < n; ++j) {
      auto& p = pattern[i * n + j];
      auto& d = wanted[i * n + j];
      if ((options.exclude_first && j == 0) ||
          (options.exclude_current && i == j))
        p = d = 0;
      any |= d > 0;
      sum += static_cast<double>(p * d);
      all += static_cast<double>(p);
      difference += static_cast<double>(std::abs(p - d));
    }
    rows += any;
  }
  switch (measure) {
    case HeadMeasure::mean:
      return sum / static_cast<double>(rows);
    case HeadMeasure::mul:
      return sum / all;
    case HeadMeasure::abs:
      break;
  }
  const auto size = static_cast<double>(n);
  return 1 - difference / (size * size) * size;
}

TEST(HeadScores, FollowTheirDefinitions) {
  const auto model = test::tiny_model();
  const std::vector<int> ids = {5, 9, 3, 9, 5, 5, 9, 3, 61};
  const size_t n = ids.size();
  const auto run = model.run(ids, {.save = {"layers.*.attn.pattern"}});
  for (const auto measure :
       {HeadMeasure::mean, HeadMeasure::mul, HeadMeasure::abs})
    for (const bool without : {false, true}) {
      const HeadOptions options{
          .measure = measure,
          .exclude_first = without,
          .exclude_current = without};
      const auto scores = head_scores(model, ids, options);
      for (const auto kind : head_kinds) {
        const auto& grid = scores[kind];
        ASSERT_EQ(grid.layers, 3);
        ASSERT_EQ(grid.heads, 6);
        const bool gone = without && (kind == HeadKind::first_token ||
                                      kind == HeadKind::current_token);
        for (int i = 0; i < 3; ++i)
          for (int h = 0; h < 6; ++h) {
            if (gone) {
              EXPECT_TRUE(std::isnan(grid.at({i, h})));
              continue;
            }
            auto pattern = mx::contiguous(mx::take(
                mx::squeeze(
                    run["layers." + std::to_string(i) + ".attn.pattern"], 0),
                h,
                0));
            pattern.eval();
            EXPECT_NEAR(
                grid.at({i, h}),
                by_definition(
                    measure,
                    drawn(kind, ids),
                    {pattern.data<float>(), pattern.data<float>() + n * n},
                    n,
                    options),
                1e-5)
                << name(kind) << " " << name(measure);
          }
      }
    }
}

TEST(HeadScores, OnRepeatedTokensAreUpstreams) {
  const auto model = test::tiny_model();
  const int period = 6;
  const auto rows = repeated_tokens(model, {.period = period, .sequences = 3});
  const auto scores = head_scores(model, rows);
  const auto run = model.run(rows, {.save = {"layers.1.attn.pattern"}});
  auto pattern = mx::contiguous(run["layers.1.attn.pattern"]);
  pattern.eval();
  const auto at = [&](int row, int head, int i, int j) {
    return pattern.data<float>()[((row * 6 + head) * 12 + i) * 12 + j];
  };
  for (int head = 0; head < 6; ++head) {
    float induction = 0, duplicate = 0, previous = 0;
    for (int row = 0; row < 3; ++row) {
      for (int i = period; i < 2 * period; ++i) {
        induction += at(row, head, i, i - period + 1) / (3 * period);
        duplicate += at(row, head, i, i - period) / (3 * period);
      }
      for (int i = 1; i < 2 * period; ++i)
        previous += at(row, head, i, i - 1) / (3 * (2 * period - 1));
    }
    const Head it{1, head};
    EXPECT_NEAR(scores[HeadKind::induction].at(it), induction, 1e-5);
    EXPECT_NEAR(scores[HeadKind::duplicate_token].at(it), duplicate, 1e-5);
    EXPECT_NEAR(scores[HeadKind::previous_token].at(it), previous, 1e-5);
  }
}

TEST(HeadScores, PromptsOfManyLengthsAverage) {
  const auto model = test::tiny_model();
  const std::vector<int> a = {1, 2, 1, 2}, b = {7, 8, 9, 7, 8, 9};
  const auto both = head_scores(model, Inputs::Rows{a, b, a});
  const auto one = head_scores(model, a), other = head_scores(model, b);
  // Two destinations in each of a, three in b.
  for (const auto& head : {Head{0, 0}, Head{2, 5}})
    EXPECT_NEAR(
        both[HeadKind::induction].at(head),
        (4 * one[HeadKind::induction].at(head) +
         3 * other[HeadKind::induction].at(head)) /
            7,
        1e-5);
}

TEST(HeadGrid, OrdersItsHeads) {
  const HeadGrid grid{2, 2, {0.5f, NAN, 0.7f, 0.5f}};
  EXPECT_EQ(grid.best(9), (std::vector<Head>{{1, 0}, {0, 0}, {1, 1}}));
  EXPECT_EQ(grid.best(1), (std::vector<Head>{{1, 0}}));
  EXPECT_EQ(name(Head{1, 0}), "L1H0");
}

TEST(RepeatedTokens, AreSeededAndDistinct) {
  const auto model = test::tiny_model();
  const auto rows = repeated_tokens(model, {.period = 10, .repeats = 3});
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows, repeated_tokens(model, {.period = 10, .repeats = 3}));
  EXPECT_NE(
      rows, repeated_tokens(model, {.period = 10, .repeats = 3, .seed = 1}));
  for (const auto& row : rows) {
    ASSERT_EQ(row.size(), 30u);
    EXPECT_EQ(std::set<int>(row.begin(), row.end()).size(), 10u);
    for (size_t i = 10; i < 30; ++i)
      EXPECT_EQ(row[i], row[i - 10]);
    EXPECT_GE(*std::ranges::min_element(row), 9);
    EXPECT_LT(*std::ranges::max_element(row), 88);
  }
  for (const RepeatedTokens& bad :
       {RepeatedTokens{.period = 1},
        RepeatedTokens{.repeats = 1},
        RepeatedTokens{.sequences = 0},
        RepeatedTokens{.period = 80},
        RepeatedTokens{.period = 33}})
    EXPECT_THROW(repeated_tokens(model, bad), Error);
}

// Eigenvalues of the whole map between tokens.
float share(const mx::array& map) {
  const auto values = mx::linalg::eigvals(map, mx::Device::cpu);
  return mx::divide(mx::sum(mx::real(values)), mx::sum(mx::abs(values)))
      .item<float>();
}

TEST(HeadCircuits, EqualTheWholeMapBetweenTokens) {
  auto config = test::tiny_config();
  config.d_head = 4;
  const auto decoder = test::tiny_decoder(config);
  // Gains that matter.
  for (const auto& [path, weight] : decoder->mutable_parameters())
    if (path.ends_with("ln1.weight") || path == "ln_final.weight")
      *weight = mx::add(
          mx::array(1.0f),
          mx::multiply(mx::array(0.5f), mx::sin(mx::arange(24.0))));
  const InterpretableModel model(decoder);
  const auto circuits = head_circuits(model);
  ASSERT_EQ(circuits.copying.values.size(), 18u);
  const auto& layer = *decoder->layers[1];
  const auto rows = [](const mx::array& x, int head) {
    return mx::slice(x, {head * 4, 0}, {head * 4 + 4, x.shape(1)});
  };
  const auto embed = mx::transpose(decoder->embed.weight.numbers());
  const auto read = [&](const mx::array& weight, int head) {
    return mx::matmul(
        mx::multiply(rows(weight, head), layer.ln1->weight), embed);
  };
  for (int head = 0; head < 6; ++head) {
    const auto w_o = mx::slice(
        layer.attention()->o_proj.weight.numbers(),
        {0, head * 4},
        {24, head * 4 + 4});
    const auto copies = mx::matmul(
        mx::multiply(
            decoder->unembed.weight().numbers(), decoder->ln_final.weight),
        mx::matmul(
            w_o, read(layer.attention()->v_proj->weight.numbers(), head / 3)));
    const auto matches = mx::matmul(
        mx::transpose(read(layer.attention()->q_proj->weight.numbers(), head)),
        read(layer.attention()->k_proj->weight.numbers(), head / 3));
    EXPECT_NEAR(circuits.copying.at({1, head}), share(copies), 1e-3);
    EXPECT_NEAR(circuits.matching.at({1, head}), share(matches), 1e-3);
  }
}

TEST(InductionAblation, RefusesWhatCannotBeDrawn) {
  const auto model = test::tiny_model();
  EXPECT_THROW(induction_ablation(model, {.heads = 0}), Error);
  EXPECT_THROW(
      induction_ablation(
          model, {.tokens = {.period = 8, .sequences = 1}, .heads = 18}),
      Error);
  const auto all = induction_ablation(
      model,
      {.tokens = {.period = 8, .sequences = 1}, .heads = 18, .draws = 0});
  EXPECT_EQ(all.best.heads.size(), 18u);
  EXPECT_TRUE(all.random.empty());
}

// What is claimed of SmolLM2: on each of three draws of tokens, held-out ones,
// five induction heads carry more than half of the gain, five others of the
// same layers less than a fifth.
TEST(InductionAblation, TakesTheGainFromTheDemoModel) {
  ASSERT_TRUE(std::filesystem::exists(demo_model_path()))
      << "the demo model is missing; run make demo";
  const auto model = InterpretableModel::load("demo");
  for (const uint64_t seed : {1, 2, 3}) {
    const auto result = induction_ablation(
        model, {.tokens = {.sequences = 2, .seed = seed}, .draws = 1});
    std::string heads;
    for (const auto& head : result.best.heads)
      heads += name(head) + " ";
    std::printf(
        "seed %d: loss %.3f, repeated %.3f; without %s%.3f (%.0f%% of the "
        "gain), at random %.0f%%\n",
        static_cast<int>(seed),
        static_cast<double>(result.first),
        static_cast<double>(result.repeated),
        heads.c_str(),
        static_cast<double>(result.best.loss),
        100 * static_cast<double>(result.best.removed),
        100 * static_cast<double>(result.removed_at_random()));
    EXPECT_GT(result.first - result.repeated, 5);
    EXPECT_GT(result.best.removed, 0.5);
    for (const auto& trial : result.random)
      EXPECT_LT(trial.removed, 0.2);
  }
}

}  // namespace
}  // namespace mlxterp
