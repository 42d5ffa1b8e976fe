// Direct logit attribution: the parts sum to the logit, in every family.

#include "mlxterp/analysis/logit_attribution.h"

#include <gtest/gtest.h>

#include <cmath>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "tests/families.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using Kind = LogitPart::Kind;

constexpr double tolerance = 1e-5;

const std::vector<int> prompt = {5, 11, 3, 29, 7, 13, 2};

double sum(const LogitAttribution& out, Kind kind, int layer) {
  double all = 0;
  for (const auto& part : out.parts)
    if (part.kind == kind && part.layer == layer) all += double(part.value);
  return all;
}

class LogitAttributionFamilies : public testing::TestWithParam<std::string> {
 protected:
  InterpretableModel model =
      InterpretableModel::load((test::families_root / GetParam()).string());
  const DecoderConfig& config = model.decoder().config();

  bool has_neurons() const {
    return std::ranges::any_of(model.decoder().layers, [](const auto& l) {
      return l->mlp && !l->moe;
    });
  }
};

TEST_P(LogitAttributionFamilies, PartsSumToTheLogit) {
  double worst = 0;
  for (const auto unit : {Unit::component, Unit::head, Unit::neuron}) {
    if (unit == Unit::neuron && !has_neurons()) continue;
    for (const int position : {-1, 2}) {
      for (const bool difference : {false, true}) {
        // A difference of capped logits is no function of that before the cap.
        if (difference && config.logit_softcap > 0) continue;
        auto metric = difference ? logit_diff(4, 9) : logit(4);
        metric.position = position;
        const auto out = logit_attribution(
            model, {.prompts = prompt, .metric = metric, .unit = unit});
        const float cap = out.softcap;
        EXPECT_EQ(cap, config.logit_softcap);
        const double said = cap > 0 ? cap * std::tanh(out.sum / cap) : out.sum;
        const auto logits = model(prompt);
        const float wanted = measure(model, metric, logits);
        EXPECT_NEAR(said, wanted, tolerance);
        EXPECT_NEAR(out.model, wanted, 1e-5);
        EXPECT_NEAR(out.accumulated.back(), out.sum, tolerance);
        worst = std::max(worst, std::abs(said - double(wanted)));
      }
    }
  }
  std::printf("largest error %.3g\n", worst);
}

TEST_P(LogitAttributionFamilies, HeadsAndNeuronsSumToTheirLayer) {
  const auto by = [&](Unit unit) {
    return logit_attribution(
        model, {.prompts = prompt, .metric = logit(4), .unit = unit});
  };
  const auto whole = by(Unit::component), heads = by(Unit::head);
  const auto neurons = has_neurons() ? by(Unit::neuron) : whole;
  for (int i = 0; i < config.n_layers; ++i) {
    EXPECT_NEAR(
        sum(heads, Kind::head, i) + sum(heads, Kind::attn_bias, i) +
            sum(heads, Kind::attn_out, i),
        sum(whole, Kind::attn_out, i),
        tolerance);
    EXPECT_NEAR(
        sum(neurons, Kind::neuron, i) + sum(neurons, Kind::mlp_bias, i) +
            sum(neurons, Kind::mlp_out, i),
        sum(whole, Kind::mlp_out, i),
        tolerance);
  }
}

// What the residual stream says in between, by the model's own norm and
// unembedding with the divisor of the last one.
TEST_P(LogitAttributionFamilies, AccumulatedIsTheStreamReadWithTheFinalScale) {
  const auto metric = logit_diff(4, 9);
  const auto out =
      logit_attribution(model, {.prompts = prompt, .metric = metric});
  ASSERT_EQ(out.accumulated.size(), size_t(config.n_layers) + 1);
  const auto run =
      model.run(prompt, {.save = {"layers.*.resid_pre", "ln_final.scale"}});
  for (int i = 0; i < config.n_layers; ++i) {
    const auto edited = model.run(
        prompt,
        {.save = {"logits"},
         .edits = {
             {"ln_final.input",
              replace_with(run["layers." + std::to_string(i) + ".resid_pre"])},
             {"ln_final.scale", replace_with(run["ln_final.scale"])}}});
    // The parts are told before the cap, the logits are behind it.
    auto logits = edited["logits"];
    if (const float cap = config.logit_softcap; cap > 0)
      logits = mx::multiply(
          mx::arctanh(mx::divide(logits, mx::array(cap))), mx::array(cap));
    EXPECT_NEAR(
        out.accumulated[size_t(i)], measure(model, metric, logits), tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All,
    LogitAttributionFamilies,
    testing::ValuesIn(test::supported_variants()),
    [](const auto& tested) { return test::test_name(tested.param); });

TEST(LogitAttribution, NamesItsPartsInTheModelsOrder) {
  const auto out = logit_attribution(
      test::tiny_model(),
      {.prompts = prompt, .metric = logit(4), .unit = Unit::head});
  ASSERT_EQ(out.parts.size(), 1u + 3 * (6 + 1));
  EXPECT_EQ(out.parts[0].name(), "embed");
  EXPECT_EQ(out.parts[1].name(), "L0H0");
  EXPECT_EQ(out.parts[7].name(), "layers.0.mlp_out");
  EXPECT_EQ(out.parts[8].name(), "L1H0");
  EXPECT_EQ(out.layers, 3);
  EXPECT_EQ(out.ids, prompt);
}

TEST(LogitAttribution, PromptsAreAveraged) {
  const auto model = test::tiny_model();
  const Inputs::Rows prompts = {prompt, {1, 2, 3}};  // of any length
  const auto both = logit_attribution(
      model, {.prompts = prompts, .metric = logit_diff({4, 7}, 9)});
  const auto a = logit_attribution(
      model, {.prompts = prompts[0], .metric = logit_diff(4, 9)});
  const auto b = logit_attribution(
      model, {.prompts = prompts[1], .metric = logit_diff(7, 9)});
  EXPECT_EQ(both.prompts, 2u);
  for (size_t i = 0; i < a.parts.size(); ++i) {
    const float x = a.parts[i].value, y = b.parts[i].value;
    EXPECT_NEAR(both.parts[i].value, (x + y) / 2, 1e-5);
    EXPECT_NEAR(both.parts[i].spread, std::abs(x - y) / 2, 1e-4);
  }
  EXPECT_NEAR(both.model, (a.model + b.model) / 2, 1e-5);
}

TEST(LogitAttribution, SaysWhatIsWrong) {
  const auto model = test::tiny_model();
  const auto error = [&](const Metric& metric) -> std::string {
    try {
      logit_attribution(model, {.prompts = prompt, .metric = metric});
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(error(probability(4)).find("logit_diff"), std::string::npos);
  EXPECT_NE(error(logit(97)).find("out of range"), std::string::npos);
  auto far = logit(4);
  far.position = 7;
  EXPECT_NE(error(far).find("position 7"), std::string::npos);
  const auto experts =
      InterpretableModel::load((test::families_root / "mixtral").string());
  EXPECT_THROW(
      logit_attribution(
          experts,
          {.prompts = prompt, .metric = logit(4), .unit = Unit::neuron}),
      Error);
}

}  // namespace
}  // namespace mlxterp
