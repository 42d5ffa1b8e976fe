// Attribution patching by rules: against gradients of whole models in which
// edits put back what a rule holds, and against what the rules promise.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <iostream>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "tests/analysis/held_model.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using test::by_position;
using test::clean;
using test::corrupt;
using test::error_of;
using test::every_rule;
using test::Held;
using test::in_layers;
using test::loaded;
using test::options_of;

struct Tally {
  double worst = 0;
  size_t compared = 0, refused = 0, changed = 0;
};

/** Of all sites, what attribute() says and what edits do. */
void expect_held(
    const InterpretableModel& model,
    const std::vector<std::string>& sites,
    const LinearRule& rule,
    const std::string& what,
    Tally& tally) {
  std::vector<std::string> names;
  for (const auto& site : sites)
    for (auto& name : in_layers(model, site))
      names.push_back(std::move(name));
  const auto gradients = Held(model, rule).gradients(names);
  const auto full = Held(model, LinearRule::full).gradients(names);
  const auto from = model.run(clean, {.save = names});
  const auto run = model.run(corrupt, {.save = names});
  std::vector<std::string> reach;
  size_t at = 0;
  std::vector<std::vector<double>> wanted;
  std::vector<double> sizes;  // the largest sum of a cell without signs
  for (const auto& site : sites) {
    const size_t layers = in_layers(model, site).size();
    std::vector<double> own;
    float largest = 0;
    double size = 0;
    bool moved = false;
    for (size_t i = 0; i < layers; ++i, ++at) {
      largest =
          std::max(largest, mx::max(mx::abs(gradients[at])).item<float>());
      moved |= !mx::allclose(gradients[at], full[at], 1e-4, 1e-7).item<bool>();
      const auto way = mx::subtract(
          mx::astype(from[names[at]], mx::float32),
          mx::astype(run[names[at]], mx::float32));
      const auto terms = mx::multiply(gradients[at], way);
      const auto cells = by_position(terms, names[at]);
      size = std::max(
          size, std::ranges::max(by_position(mx::abs(terms), names[at])));
      own.insert(own.end(), cells.begin(), cells.end());
    }
    if (largest == 0) {
      EXPECT_SAYS(error_of(model, options_of({site}, rule)), "nothing of");
      ++tally.refused;
      continue;
    }
    tally.changed += moved;
    reach.push_back(site);
    wanted.push_back(std::move(own));
    sizes.push_back(size);
  }
  const auto found = attribute(model, options_of(reach, rule));
  ASSERT_EQ(found.size(), wanted.size()) << what;
  for (size_t s = 0; s < found.size(); ++s) {
    const auto values = found[s].attributions();
    ASSERT_EQ(values.size(), wanted[s].size()) << what << " " << reach[s];
    double largest = 0, error = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const auto value = static_cast<double>(values[i]);
      EXPECT_TRUE(std::isfinite(value));
      largest = std::max(largest, std::abs(wanted[s][i]));
      error = std::max(error, std::abs(value - wanted[s][i]));
    }
    EXPECT_GT(largest, 0) << what << " " << reach[s];
    // `attributions` are differences of float32 metrics.
    const double bound =
        1e-5 * sizes[s] +
        1e-7 * std::abs(static_cast<double>(found[s].sweep.corrupt));
    EXPECT_LE(error, bound) << what << " " << reach[s];
    tally.worst = std::max(tally.worst, error / sizes[s]);
    ++tally.compared;
  }
}

const std::vector<std::string> watchable = {
    "resid_pre",
    "resid_mid",
    "attn_out",
    "mlp_out",
    "attn.z",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.pattern",
    "mlp.pre",
    "mlp.pre_linear",
    "mlp.post"};

// Of all layers.
std::vector<std::string> watchable_of(const InterpretableModel& model) {
  std::vector<std::string> out;
  for (const auto& site : watchable)
    if (in_layers(model, site).size() ==
        static_cast<size_t>(model.decoder().config().n_layers))
      out.push_back(site);
  return out;
}

class AttributionRules : public testing::TestWithParam<int> {};

constexpr int shares = 4;

// Every family by every rule that it knows, and by one that holds a site, of
// each another one, which is watched as well.
TEST_P(AttributionRules, AreGradientsOfModelsThatAreHeld) {
  Tally tally;
  size_t models = 0, unknown = 0;
  const auto& variants = test::supported_variants();
  for (size_t turn = 0; turn < variants.size(); ++turn) {
    if (turn % shares != static_cast<size_t>(GetParam())) continue;
    const auto& variant = variants[turn];
    const auto model = loaded(variant);
    const auto sites = watchable_of(model);
    std::vector<std::string> inside;
    for (const auto* site :
         {"attn.pattern",
          "attn.z",
          "mlp.post",
          "attn.v",
          "attn_out",
          "mlp.pre"})
      if (std::ranges::count(sites, site)) inside.emplace_back(site);
    std::vector<LinearRule> rules = {
        LinearRule::relevance,
        LinearRule::frozen,
        linear_rule("hold(ln_final.scale)")};
    if (!inside.empty()) {
      const auto& held = inside[turn / shares % inside.size()];
      rules.push_back(linear_rule("hold(" + held + ")"));
      rules.push_back(linear_rule("relevance+hold(" + held + ")"));
    }
    for (size_t r = 0; r < rules.size(); ++r) {
      if (r < 3 && turn / shares % 3 != r) continue;
      const auto what = variant + " " + name(rules[r]);
      const auto said = error_of(model, options_of({"resid_pre"}, rules[r]));
      if (said.find("says nothing of") != std::string::npos) {
        ++unknown;
        continue;
      }
      ASSERT_EQ(said, "") << what;
      expect_held(model, sites, rules[r], what, tally);
    }
    ++models;
  }
  std::cout << fmt::format(
      "{} models, {} sites, {} of them changed, {} refused, {} rules unknown, "
      "{:.2g} at most\n",
      models,
      tally.compared,
      tally.changed,
      tally.refused,
      unknown,
      tally.worst);
  EXPECT_GE(models, 35u);
  EXPECT_GE(tally.compared, 300u);
  EXPECT_GE(tally.changed, tally.compared / 3);
}

INSTANTIATE_TEST_SUITE_P(Quarters, AttributionRules, testing::Range(0, shares));

TEST(AttributionRule, HoldsSteeredModels) {
  const auto plain = loaded("llama-gqa");
  const int d = plain.decoder().config().d_model;
  const auto model = plain.with(
      {{"layers.0.resid_post", add_vector(mx::full({d}, 0.3f))},
       {"layers.1.attn.z", scale(1.5f)}});
  Tally tally;
  for (const auto& rule : every_rule)
    expect_held(
        model, watchable_of(model), rule, "steered " + name(rule), tally);
  EXPECT_GE(tally.compared, 30u);
  // What an edit makes of an activation has a derivative of its own.
  const auto edited = plain.with({{"layers.1.mlp.post", scale(2.0f)}});
  EXPECT_SAYS(
      error_of(edited, options_of({"resid_pre"}, LinearRule::relevance)),
      "'layers.1.mlp.post'");
  expect_held(
      edited, {"resid_pre", "mlp.pre"}, LinearRule::frozen, "edited", tally);
}

TEST(AttributionRule, SaysWhatIsWrong) {
  const auto model = test::tiny_model();
  const auto by = [&](const char* rule, const char* site = "resid_pre") {
    return error_of(model, options_of({site}, linear_rule(rule)));
  };
  EXPECT_SAYS(by("hold(attn.patern)"), "attn.pattern");
  EXPECT_SAYS(by("hold(resid_mid)"), "behind which nothing would be left");
  EXPECT_SAYS(by("hold(logits)"), "which no layer has");
  EXPECT_SAYS(
      by("hold(ln_final.normalized)"), "nothing of 'resid_pre' reaches");
  EXPECT_SAYS(by("hold(attn_out)", "z"), "or another site");
  EXPECT_SAYS(by("frozen", "k"), "the method qk-fix");
  EXPECT_SAYS(
      error_of(
          loaded("mixtral"), options_of({"resid_pre"}, LinearRule::relevance)),
      "[attribute] the rule 'relevance' says nothing of layer 0's experts");
  for (const char* wrong :
       {"full+hold(z)", "relevance+", "relevance+frozen", "frozen+hold()"})
    EXPECT_THROW(linear_rule(wrong), Error) << wrong;
  const auto both = linear_rule("relevance+hold(attn.pattern,ln1.scale)");
  EXPECT_EQ(both.kind, LinearRule::relevance);
  EXPECT_EQ(name(both), "relevance+hold(attn.pattern, ln1.scale)");
  EXPECT_EQ(linear_rule(name(both)), both);
}

}  // namespace
}  // namespace mlxterp
