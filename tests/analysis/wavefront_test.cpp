// The walk that all sweeps share, where patch() cannot reach: cells that begin
// within a few positions are given the rows of the first, as on a GPU.

#include "analysis/wavefront/wavefront.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "analysis/sites.h"
#include "mlx/ops.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

// They share three tokens, and later ones again.
const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2, 8, 40, 41, 42};
const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2, 8, 40, 44, 42};

// One cell for each layer and position, and unit where there are some.
Wavefront sweep_of(
    const InterpretableModel& model,
    const LayerSite& site,
    const Metric& metric,
    int units) {
  Wavefront wave{
      .model = model,
      .runs = {{corrupt}, {clean}},
      .sites =
          {{.ids = site.ids,
            .layout = site.pattern ? Layout::heads : site.layout,
            .from_pattern = site.pattern}},
      .cells = {},
      .metric = readout(model, metric),
      .reference = 1,
  };
  for (int i = 0; i < model.decoder().config().n_layers; ++i)
    for (int p = 0; p < static_cast<int>(clean.size()); ++p)
      for (int u = 0; u < std::max(units, 1); ++u)
        wave.cells.push_back(
            {.run = 0,
             .changes = {
                 {.first_layer = i + site.shift,
                  .last_layer = i + site.shift,
                  .from = p,
                  .to = p,
                  .unit = units > 0 ? u : -1,
                  .source = 1}}});
  return wave;
}

mx::array flat(const std::vector<float>& values) {
  return mx::array(values.data(), {static_cast<int>(values.size())});
}

TEST(Wavefront, CellsThatStartTogetherSayWhatTheySayAlone) {
  const auto model = test::tiny_model();
  const auto all_rows = custom_of_run("all rows", [](const mx::array& logits) {
    return mx::mean(mx::square(logits));
  });
  const auto own = custom(
      "mean", [](const mx::array& logits) { return mx::mean(logits, 1); });
  for (const auto& metric :
       {logit_diff(4, 9), kl_divergence(), loss(), own, all_rows})
    for (const auto& [name, units] :
         {std::pair{"resid_pre", 0},
          {"resid_post", 0},
          {"mlp_out", 0},
          {"z", 6},
          {"k", 2},
          {"pattern", 6},
          {"mlp.post", 40}}) {
      const auto site = layer_site(model, name);
      auto wave = sweep_of(model, site, metric, units);
      wave.positions_together = 1;
      const auto alone = wave.sweep();
      ASSERT_EQ(alone.cells.size(), 3 * clean.size() * std::max(units, 1));
      EXPECT_GT(
          test::max_difference(
              flat(alone.cells),
              mx::full({static_cast<int>(alone.cells.size())}, alone.runs[0])),
          1e-5);
      for (const int together : {3, 8}) {
        wave.positions_together = together;
        const auto some = wave.sweep();
        const auto what =
            fmt::format("{} of {}, {} together", metric.name, name, together);
        test::expect_close(
            flat(some.cells),
            flat(alone.cells),
            1e-5,
            alone.cells.size(),
            what);
        EXPECT_EQ(some.computed, alone.computed) << what;
        // The rows before a cell's own are the price.
        EXPECT_GT(some.rows, alone.rows) << what;
      }
    }
}

// A value kept of a cell starts where its rows do, and says where.
TEST(Wavefront, WhatIsKeptOfCellsThatStartTogether) {
  const auto model = test::tiny_model();
  auto wave = sweep_of(model, layer_site(model, "mlp_out"), logit(4), 0);
  wave.keep = {model.sites().find("layers.2.resid_post")};
  for (const int together : {1, 3, 8}) {
    wave.positions_together = together;
    const auto result = wave.sweep();
    ASSERT_EQ(result.kept.size(), result.computed);
    size_t compared = 0;
    for (const auto& kept : result.kept) {
      const auto& change = wave.cells[kept.cell].changes.front();
      EXPECT_EQ(kept.first, change.from / together * together);
      const auto site = fmt::format("layers.{}.mlp_out", change.first_layer);
      const auto value = model.run(clean, {.save = {site}})[site];
      const auto run = model.run(
          corrupt,
          {.save = {"layers.2.resid_post"},
           .edits = {
               {site,
                at_positions(
                    {change.from},
                    replace_with(
                        mx::take(value, mx::array({change.from}, {1}), 1)))}}});
      const auto expected = mx::squeeze(run["layers.2.resid_post"], 0);
      const auto rows = mx::slice(
          expected, {kept.first, 0}, {expected.shape(0), expected.shape(1)});
      EXPECT_LE(test::max_difference(kept.value, rows), 1e-5);
      compared += kept.value.size();
    }
    EXPECT_GT(compared, 0u);
  }
}

}  // namespace
}  // namespace mlxterp
