// Dashboards: what streams by is the same in any order of growing, and what is
// written about it is whole. The numbers themselves are compared with NumPy's
// in tests/python/test_dashboards.py.

#include "mlxterp/sae/dashboard.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "io/gzip.h"
#include "mlxterp/core/error.h"
#include "mlxterp/spec/sae.h"
#include "sae/feature_examples.h"
#include "sae/neighbours.h"
#include "tests/cli/worded_checkpoint.h"
#include "tests/sae/tiny_sae.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

TEST(PowerGrid, IsTheSmallestThatHoldsTheLargest) {
  for (const int most : {1, 3, 10, 50})
    for (const double first : {1e-30, 0.3, 1.0, 7.0})
      for (const double last : {1e-20, 0.125, 5.0, 1e9}) {
        PowerGrid grid(most);
        EXPECT_EQ(grid.grow(first), 0);
        const auto before = grid.width();
        const int times = grid.grow(last);
        EXPECT_EQ(std::ldexp(before, times), grid.width());
        const double largest = std::max(first, last);
        EXPECT_GE(most * grid.width(), largest);
        EXPECT_LT(most * grid.width() / 2, largest);
        EXPECT_EQ(
            grid.place(largest),
            static_cast<size_t>(std::ceil(largest / grid.width())) - 1);
        EXPECT_LT(grid.place(largest), static_cast<size_t>(most));
      }
}

// Windows of four positions with one feature, in some order of sizes.
FeatureDashboard gathered(const std::vector<std::vector<float>>& windows) {
  const DashboardOptions options{
      .top = 2, .intervals = 4, .per_interval = 2, .bins = 8};
  FeatureExamples examples(7, 0, options);
  const std::vector<int> ids = {1, 2, 3, 4};
  for (size_t w = 0; w < windows.size(); ++w) {
    const WindowActs from{
        .ids = ids,
        .acts = windows[w].data(),
        .features = 1,
        .document = 0,
        .window = static_cast<int64_t>(w)};
    for (size_t p = 1; p < 4; ++p)
      if (windows[w][p] != 0) examples.add(from, p, windows[w][p]);
    examples.end_window(from);
  }
  return examples.take();
}

TEST(FeatureExamples, CountWhatCameBeforeTheyGrew) {
  const auto it = gathered(
      {{9, 0.5f, 0, 0.25f}, {9, 1, 3, 0}, {0, 0, 0, 0}, {9, 8, -2, 8}});
  EXPECT_EQ(it.active, 7);
  EXPECT_EQ(it.largest, 8);
  EXPECT_NEAR(it.mean, (0.5 + 0.25 + 1 + 3 + 8 - 2 + 8) / 7, 1e-12);
  // Eight bins of 1 hold 8; that of -2 is [-2, -1).
  EXPECT_EQ(it.activations.width, 1);
  EXPECT_EQ(it.activations.from, -2);
  EXPECT_EQ(
      it.activations.counts,
      (std::vector<int64_t>{1, 0, 3, 0, 1, 0, 0, 0, 0, 2}));
  ASSERT_EQ(it.intervals.size(), 4u);
  EXPECT_EQ(it.intervals[0].from, 6);
  EXPECT_EQ(it.intervals[0].to, 8);
  EXPECT_EQ(it.intervals[0].positions, 2);
  EXPECT_EQ(it.intervals[3].positions, 4);
  EXPECT_EQ(it.intervals[3].examples.size(), 2u);
  // The best position of a window, the earlier of equals.
  ASSERT_EQ(it.top.size(), 2u);
  EXPECT_EQ(it.top[0].value, 8);
  EXPECT_EQ(it.top[0].position, 1);
  EXPECT_EQ(it.top[0].acts, (std::vector<float>{0, 8, -2, 8}));
  EXPECT_EQ(it.top[1].value, 3);
  EXPECT_EQ(it.top[1].at, 2);
  EXPECT_EQ(gathered({{9, 0, 0, 0}}).active, 0);
}

TEST(FeatureExamples, DrawTheSameHoweverTheyGrew) {
  // The same values at the same places; in one of them the largest comes first.
  std::vector<std::vector<float>> windows;
  for (int w = 0; w < 40; ++w)
    windows.push_back(
        {0,
         0.01f * static_cast<float>(w + 1),
         0.02f * static_cast<float>(w + 1),
         0});
  auto first = windows, last = windows;
  first[0][3] = 100;  // nothing merges later
  last[39][3] = 100;  // everything does
  const auto a = gathered(first), b = gathered(last);
  ASSERT_EQ(a.intervals.size(), 4u);
  ASSERT_EQ(b.intervals.size(), 4u);
  EXPECT_EQ(a.activations.counts, b.activations.counts);
  ASSERT_EQ(a.intervals[3].examples.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(
        a.intervals[3].examples[i].window, b.intervals[3].examples[i].window);
    EXPECT_EQ(
        a.intervals[3].examples[i].position,
        b.intervals[3].examples[i].position);
  }
}

TEST(Correlations, AreThoseOfAllPositions) {
  Correlations sums(3);
  const float values[][3] = {{1, 2, 0}, {0, 0, 0}, {3, 5, 0}, {0, 1, 0}};
  for (const auto& row : values) {
    std::vector<std::pair<size_t, float>> active;
    for (size_t f = 0; f < 3; ++f)
      if (row[f] != 0) active.emplace_back(f, row[f]);
    sums.add(active);
  }
  const auto found = sums.of(0, {10, 11, 12}, 5);
  ASSERT_EQ(found.size(), 1u);  // a feature that is never active is like none
  EXPECT_EQ(found[0].feature, 11);
  EXPECT_EQ(found[0].both, 2);
  EXPECT_NEAR(found[0].pearson, 9 / std::sqrt(6.0 * 14), 1e-12);
  EXPECT_NEAR(found[0].cosine, 17 / std::sqrt(10.0 * 30), 1e-12);
}

TEST(Gzip, BeginsAndEndsAsItShould) {
  const std::string text(1000, 'x');
  const auto packed = gzip(text);
  EXPECT_LT(packed.size(), 60u);
  EXPECT_EQ(packed.substr(0, 3), "\x1f\x8b\x08");
  EXPECT_EQ(packed.substr(packed.size() - 4), std::string("\xe8\x03\0\0", 4));
  EXPECT_EQ(gzip(text), packed);
  EXPECT_EQ(gzip("").size(), 20u);
}

TEST(Dashboards, OfATextAreThoseOfItsWindows) {
  const testing::TempFolder place;
  const auto model =
      InterpretableModel::load(test::worded_checkpoint(place).string());
  auto sae = test::random_sae(2, 24, 40);
  sae.source.site_in = sae.source.site_out = "layers.0.resid_post";
  const auto text = place / "text.txt";
  std::ofstream(text) << "one two three four five six seven\n"
                      << "eight nine ten, and one more time\n";
  const DashboardOptions options{
      .features = {3, 4, 30}, .per_interval = 3, .length = 12};
  const auto found = feature_dashboards_of_text(model, sae, text, options);
  EXPECT_GT(found.windows, 1);
  EXPECT_EQ(found.features.size(), 3u);
  // The same from prompts, whatever batches they come in.
  const auto contexts = feature_contexts(
      model, sae, text, {.features = {3, 4, 30}, .top = 20, .length = 12});
  size_t compared = 0;
  for (size_t f = 0; f < 3; ++f) {
    const auto& a = found.features[f];
    const auto& b = contexts.features[f];
    EXPECT_EQ(a.active, b.active);
    ASSERT_EQ(a.top.size(), b.top.size());
    for (size_t i = 0; i < a.top.size(); ++i, ++compared)
      EXPECT_NEAR(a.top[i].value, b.top[i].value, 1e-5);
  }
  EXPECT_GT(compared, 2u);
  EXPECT_EQ(found.tokens, contexts.tokens);

  const auto fails = [&](ErrorKind kind, auto run) {
    try {
      run();
      FAIL() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
    }
  };
  const auto empty = place / "empty.txt";
  std::ofstream(empty) << "";
  using enum ErrorKind;
  fails(usage, [&] { feature_dashboards_of_text(model, sae, empty, options); });
  fails(environment, [&] {
    feature_dashboards_of_text(model, sae, place / "none.txt", options);
  });
  fails(usage, [&] {
    auto longer = options;
    longer.length = 1 << 20;
    feature_dashboards_of_text(model, sae, text, longer);
  });
  auto broken = sae;
  broken.b_enc = mlx::core::full({40}, INFINITY, mlx::core::float32);
  fails(bad_data, [&] {
    feature_dashboards(model, broken, Inputs::Rows{{3, 4, 5}}, options);
  });
  EXPECT_EQ(spec::parse_features({"all"}, sae, 0).size(), 40u);
  const auto drawn = spec::parse_features({"random:7"}, sae, 1);
  EXPECT_EQ(drawn.size(), 7u);
  EXPECT_EQ(drawn, spec::parse_features({"random:7"}, sae, 1));
  EXPECT_NE(drawn, spec::parse_features({"random:7"}, sae, 2));
  EXPECT_EQ(spec::parse_features({"3,7..9"}, sae, 0).size(), 4u);
  fails(out_of_range, [&] { spec::parse_features({"40"}, sae, 0); });
  fails(usage, [&] { spec::parse_features({"random:x"}, sae, 0); });
}

}  // namespace
}  // namespace mlxterp
