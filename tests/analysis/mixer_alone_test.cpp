// Layers that are a mixer alone, without an MLP: they have no mlp_out and no
// resid_mid, and everything that asks for these copes.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "mlx/ops.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/analysis/logit_attribution.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/analysis/path_patch.h"
#include "mlxterp/analysis/verify.h"
#include "mlxterp/core/error.h"
#include "mlxterp/models/weights.h"
#include "mlxterp/report/logit_attribution.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};

InterpretableModel model_of(std::vector<int> d_mlps, bool parallel = false) {
  auto config = test::tiny_config();
  config.n_layers = static_cast<int>(d_mlps.size());
  config.d_mlps = std::move(d_mlps);
  config.parallel = parallel;
  return test::tiny_model(config);
}

InterpretableModel mixed() {
  return model_of({0, 40, 0, 24});
}

InterpretableModel alone() {
  return model_of({0, 0, 0});
}

std::string said(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(MixerAlone, AddsAllThatTheLayerAdds) {
  for (const bool parallel : {false, true}) {
    const auto model = model_of({0, 40}, parallel);
    for (const auto* none :
         {"layers.0.mlp", "layers.0.mlp_out", "layers.0.resid_mid"})
      EXPECT_FALSE(model.sites().contains(none)) << none;
    EXPECT_FALSE(model.decoder().layers[0]->ln2.has_value());
    EXPECT_TRUE(model.sites().contains("layers.1.mlp_out"));
    EXPECT_EQ(model.sites().contains("layers.1.resid_mid"), !parallel);
    const auto run = model.run(clean, {.save = {"layers.0.*"}});
    test::expect_close(
        mx::add(run["layers.0.resid_pre"], run["layers.0.attn_out"]),
        run["layers.0.resid_post"],
        1e-6,
        7 * 24,
        "what the layer leaves");
  }
}

TEST(MixerAlone, HoldsWhatEveryModelMust) {
  for (const auto& model : {mixed(), alone(), model_of({0, 40}, true)}) {
    const auto checks = verify(model);
    EXPECT_EQ(checks.size(), 10u);
    for (const auto& check : checks)
      EXPECT_TRUE(check.passed())
          << check.name << ": " << check.error << " " << check.where;
  }
}

TEST(MixerAlone, SweepsAreExact) {
  const auto model = mixed();
  size_t compared = 0;
  for (const std::string site :
       {"resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z"}) {
    PatchOptions options{
        .clean = clean,
        .corrupt = corrupt,
        .site = site,
        .by = {Axis::layer, Axis::position},
        .metric = logit_diff(4, 9)};
    const auto fast = patch(model, options);
    options.one_pass_per_cell = true;
    const auto slow = patch(model, options);
    ASSERT_EQ(fast.shape(), slow.shape()) << site;
    const bool of_mlps = site == "resid_mid" || site == "mlp_out";
    EXPECT_EQ(fast.cells(), of_mlps ? 14u : 28u) << site;
    for (size_t i = 0; i < slow.cells(); ++i, ++compared)
      EXPECT_NEAR(fast.metric[i], slow.metric[i], 1e-4) << site << " " << i;
  }
  EXPECT_EQ(compared, size_t{4 * 28 + 2 * 14});
}

TEST(MixerAlone, ALensReadsTheLayersThatHaveTheSite) {
  for (const std::string site : {"mlp_out", "resid_mid"}) {
    const auto lens = logit_lens(mixed(), clean, {.site = site});
    EXPECT_EQ(
        lens.sites,
        (std::vector<std::string>{"layers.1." + site, "layers.3." + site}));
    EXPECT_EQ(lens.layers, (std::vector<std::optional<int>>{1, 3}));
    const auto none = said([&] { logit_lens(alone(), clean, {.site = site}); });
    EXPECT_NE(none.find("no layer has " + site), none.npos) << none;
    const auto other = said([&] {
      logit_lens(mixed(), clean, {.layers = {0, 2}, .site = site});
    });
    EXPECT_NE(other.find("no layer asked for has"), other.npos) << other;
  }
}

TEST(MixerAlone, PartsSumToTheLogit) {
  for (const auto& model : {mixed(), alone()})
    for (const auto unit : {Unit::component, Unit::head}) {
      const auto all = logit_attribution(
          model, {.prompts = clean, .metric = logit_diff(4, 9), .unit = unit});
      EXPECT_NEAR(all.sum, all.model, 1e-4);
    }
  const auto neurons = said([] {
    logit_attribution(
        alone(), {.prompts = clean, .metric = logit(4), .unit = Unit::neuron});
  });
  EXPECT_NE(neurons.find("no MLP"), neurons.npos) << neurons;
}

TEST(MixerAlone, ThePictureHasNoColumnOrNoValue) {
  const auto map_of = [](const InterpretableModel& model) {
    return report::heatmap(report::logit_attribution_report(
        model,
        "tiny",
        {"logit(4)"},
        Unit::component,
        logit_attribution(model, {.prompts = clean, .metric = logit(4)})));
  };
  const auto map = map_of(mixed());
  EXPECT_EQ(map.columns, (std::vector<std::string>{"attn_out", "mlp_out"}));
  ASSERT_EQ(map.values.size(), 8u);  // the last layer first
  for (size_t row = 0; row < 4; ++row)
    EXPECT_EQ(std::isnan(map.values[2 * row + 1]), row % 2 == 1);
  EXPECT_EQ(map_of(alone()).columns, std::vector<std::string>{"attn_out"});
}

TEST(MixerAlone, HasNoWeightsOfAnMlp) {
  const auto model = mixed();
  EXPECT_EQ(
      weight(model.decoder(), "W_in", {.layer = 3}).shape(),
      (mx::Shape{24, 24}));
  for (const auto* name : {"W_in", "W_gate", "W_out", "b_in", "b_out"})
    for (const auto& part : {WeightPart{}, WeightPart{.layer = 2}}) {
      const auto refused = said([&] { weight(model.decoder(), name, part); });
      EXPECT_NE(refused.find("has no MLP"), refused.npos) << refused;
      EXPECT_NE(refused.find("1, 3"), refused.npos) << refused;
    }
}

TEST(MixerAlone, PathsGoThroughWhatThereIs) {
  for (const auto& model : {mixed(), alone()}) {
    PathPatchOptions options{
        .clean = clean,
        .corrupt = corrupt,
        .through_mlps = false,
        .metric = logit_diff(4, 9)};
    EXPECT_EQ(
        path_patch(model, options).cells(),
        6u * static_cast<size_t>(model.decoder().config().n_layers));
  }
  PathPatchOptions options{
      .clean = clean,
      .corrupt = corrupt,
      .senders = "mlp_out",
      .metric = logit_diff(4, 9)};
  EXPECT_EQ(path_patch(mixed(), options).cells(), 2u);
  EXPECT_NE(said([&] { path_patch(alone(), options); }), "");
}

}  // namespace
}  // namespace mlxterp
