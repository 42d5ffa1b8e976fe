// Layers that mix positions by a part of a user's own: everything works on
// them, or says which layers have attention.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "mlx/ops.h"
#include "mlxterp/analysis/attention.h"
#include "mlxterp/analysis/heads.h"
#include "mlxterp/analysis/logit_attribution.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/analysis/path_patch.h"
#include "mlxterp/analysis/verify.h"
#include "mlxterp/core/error.h"
#include "mlxterp/models/weights.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

// A running sum of what a projection says, and one behind it.
class RunningSum final : public nn::Mixer {
 public:
  explicit RunningSum(int d) : in_proj(d, d), out_proj(d, d) {
    add("in_proj", in_proj);
    add("out_proj", out_proj, Stage::after);
    sum_ = site("sum", {.width = d});
  }

  std::string_view name() const override { return "sum"; }

  mx::array forward(const mx::array& x, Pass& pass) const override {
    const int held = pass.cache_offset();
    std::vector<mx::array> before;
    if (pass.cache()) before = pass.cache()->kept(this, held, x.shape(0));
    auto sums = pass.on_sequences({in_proj(x, pass)}, [&](const auto& rows) {
      auto y = mx::cumsum(rows[0], 1);
      if (!before.empty()) y = mx::add(y, before[0]);
      return std::vector{y};
    })[0];
    if (pass.cache())
      pass.cache()->keep(
          this,
          held + x.shape(1),
          {mx::take(sums, mx::array({x.shape(1) - 1}), 1)});
    sums = pass.gather_output_rows(tap(pass, sum_, std::move(sums)));
    return out_proj(mx::multiply(sums, mx::array(0.2f)), pass);
  }

  nn::Linear in_proj, out_proj;

 private:
  Slot sum_;
};

DecoderConfig config_of(std::vector<int> attending, int layers = 4) {
  auto config = test::tiny_config();
  config.n_layers = layers;
  config.mixer = [attending](
                     const DecoderConfig& c,
                     int layer) -> std::unique_ptr<nn::Mixer> {
    if (std::ranges::find(attending, layer) == attending.end())
      return std::make_unique<RunningSum>(c.d_model);
    return std::make_unique<nn::Attention>(attention_config(c, layer));
  };
  return config;
}

InterpretableModel mixed() {
  return test::tiny_model(config_of({1, 3}));
}

const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};

std::string said(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(OwnMixer, IsNamedAsItSays) {
  const auto model = mixed();
  EXPECT_EQ(model.sites().match("layers.*.attn.z").size(), 2u);
  EXPECT_EQ(model.sites().match("layers.*.sum.sum").size(), 2u);
  EXPECT_EQ(model.sites().match("layers.*.attn_out").size(), 4u);
  EXPECT_EQ(model.sites().match("layers.*.resid_mid").size(), 4u);
  const auto run = model.run(clean, {.save = {"layers.0.*", "logits"}});
  test::expect_close(
      run["layers.0.attn_out"],
      mx::subtract(run["layers.0.resid_mid"], run["layers.0.resid_pre"]),
      1e-5,
      7 * 24,
      "what the mixer adds");
}

TEST(OwnMixer, HoldsWhatEveryModelMust) {
  for (const auto& attending : std::vector<std::vector<int>>{{1, 3}, {0}, {}}) {
    const auto checks = verify(test::tiny_model(config_of(attending)));
    EXPECT_EQ(checks.size(), attending.empty() ? 6u : 10u);
    for (const auto& check : checks)
      EXPECT_TRUE(check.passed())
          << check.name << ": " << check.error << " " << check.where;
  }
}

TEST(OwnMixer, SweepsAreExact) {
  const auto model = mixed();
  size_t compared = 0;
  // A mixer by its own name is in its own layers, attn_out in all.
  const std::set<std::string> every = {"resid_pre", "attn_out", "mlp_out"};
  for (const std::string site :
       {"resid_pre",
        "attn_out",
        "z",
        "pattern",
        "q",
        "sum.sum",
        "sum",
        "mlp_out",
        "in_proj.output"}) {
    PatchOptions options{
        .clean = clean,
        .corrupt = corrupt,
        .site = site,
        .by = {Axis::layer, Axis::position},
        .metric = logit_diff(4, 9)};
    const auto fast = patch(model, options);
    options.one_pass_per_cell = true;
    const auto slow = patch(model, options);
    ASSERT_EQ(fast.shape(), slow.shape());
    const bool all = every.contains(site);  // layers have it
    EXPECT_EQ(fast.cells(), all ? 28u : 14u) << site;
    for (size_t i = 0; i < slow.cells(); ++i, ++compared)
      EXPECT_NEAR(fast.metric[i], slow.metric[i], 1e-4) << site << " " << i;
  }
  EXPECT_EQ(compared, size_t{7 * (3 * 4 + 6 * 2)});
}

TEST(OwnMixer, HeadsAreScoredWhereTheyAre) {
  const auto model = mixed();
  const auto scores = head_scores(model, clean)[HeadKind::first_token];
  const auto circuits = head_circuits(model);
  const auto found = attention(model, clean);
  ASSERT_EQ(scores.values.size(), 24u);
  for (const auto* grid :
       {&scores, &circuits.copying, &circuits.matching, &found.entropy})
    for (int layer = 0; layer < 4; ++layer)
      for (int head = 0; head < 6; ++head)
        EXPECT_EQ(std::isnan(grid->at({layer, head})), layer % 2 == 0);
  EXPECT_EQ(scores.best(24).size(), 12u);
  const auto refused = said([&] { attention(model, clean, {.layer = 2}); });
  EXPECT_NE(refused.find("layer 2 has 'sum'"), refused.npos) << refused;
  EXPECT_NE(refused.find("have it: 1, 3"), refused.npos) << refused;
  EXPECT_NE(
      said([&] {
        head_scores(test::tiny_model(config_of({})), clean);
      }).find("no layer"),
      std::string::npos);
}

TEST(OwnMixer, LogitsAreTheSumOfHeadsAndOthers) {
  const auto all = logit_attribution(
      mixed(),
      {.prompts = clean, .metric = logit_diff(4, 9), .unit = Unit::head});
  EXPECT_NEAR(all.sum, all.model, 1e-4);
  size_t heads = 0, others = 0;
  for (const auto& part : all.parts) {
    heads += part.kind == LogitPart::Kind::head;
    others += part.kind == LogitPart::Kind::attn_out;
  }
  EXPECT_EQ(heads, 12u);
  EXPECT_EQ(others, 2u);
}

TEST(OwnMixer, PathsHoldIt) {
  const auto model = mixed();
  PathPatchOptions options{
      .clean = clean, .corrupt = corrupt, .metric = logit_diff(4, 9)};
  options.through_mlps = false;
  const auto sweep = path_patch(model, options);
  ASSERT_EQ(sweep.cells(), 12u);
  // By hand: the sender, all that mixes later held, and the MLPs.
  const std::vector<std::string> sites = {
      "layers.*.attn.z", "layers.*.{attn_out,mlp_out}"};
  const auto own = model.run(clean, {.save = sites});
  const auto other = model.run(corrupt, {.save = sites});
  const auto diff = [&](const std::vector<Edit>& edits) {
    const auto logits =
        model.run(clean, {.save = {"logits"}, .edits = edits})["logits"];
    const auto last = mx::flatten(mx::take(logits, 6, 1));
    return mx::subtract(mx::take(last, 4), mx::take(last, 9)).item<float>();
  };
  for (const int head : {0, 5}) {
    std::vector<Edit> edits = {
        {"layers.1.attn.z",
         on_heads(
             {head},
             replace_with(
                 mx::take(other["layers.1.attn.z"], mx::array({head}), 2)))}};
    for (const auto* held :
         {"layers.2.attn_out",
          "layers.3.attn_out",
          "layers.1.mlp_out",
          "layers.2.mlp_out",
          "layers.3.mlp_out"})
      edits.push_back({held, replace_with(own[held])});
    EXPECT_NEAR(sweep.metric[static_cast<size_t>(head)], diff(edits), 1e-4);
  }
  options.receivers = {{.layer = 2, .head = 0}};
  const auto refused = said([&] { path_patch(model, options); });
  EXPECT_NE(refused.find("layer 2 has no attention"), refused.npos) << refused;
}

TEST(OwnMixer, WeightsAreThoseOfAttention) {
  const auto model = mixed();
  EXPECT_EQ(
      weight(model.decoder(), "W_Q", {.layer = 3}).shape(),
      (mx::Shape{6, 24, 8}));
  for (const auto& part : {WeightPart{}, WeightPart{.layer = 0}}) {
    const auto refused = said([&] { weight(model.decoder(), "W_Q", part); });
    EXPECT_NE(refused.find("layer 0 has 'sum'"), refused.npos) << refused;
    EXPECT_NE(refused.find("1, 3"), refused.npos) << refused;
  }
}

TEST(OwnMixer, AFactoryThatMakesNothingIsRefused) {
  auto config = test::tiny_config();
  config.mixer = [](const DecoderConfig&, int) {
    return std::unique_ptr<nn::Mixer>();
  };
  EXPECT_NE(
      said([&] { Decoder{config}; }).find("made nothing for layer 0"),
      std::string::npos);
}

}  // namespace
}  // namespace mlxterp
