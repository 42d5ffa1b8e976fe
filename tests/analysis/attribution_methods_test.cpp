// Attribution by rules in all its methods and metrics, and what relevance
// promises.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <utility>

#include "mlx/ops.h"
#include "tests/analysis/held_model.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using enum Axis;
using test::clean;
using test::corrupt;
using test::error_of;
using test::every_rule;
using test::Held;
using test::in_layers;
using test::loaded;
using test::Measure;
using test::options_of;

// Of one site, gradient times way.
std::vector<double> contracted(
    const std::vector<mx::array>& gradients,
    const std::vector<mx::array>& ways,
    const std::string& name) {
  std::vector<double> out;
  for (size_t i = 0; i < gradients.size(); ++i) {
    const auto own =
        test::by_position(mx::multiply(gradients[i], ways[i]), name);
    out.insert(out.end(), own.begin(), own.end());
  }
  return out;
}

std::vector<mx::array> ways_of(
    const InterpretableModel& model,
    const std::vector<std::string>& names,
    const std::vector<int>& source,
    const std::vector<int>& run) {
  const auto from = model.run(source, {.save = names});
  const auto to = model.run(run, {.save = names});
  std::vector<mx::array> out;
  for (const auto& name : names)
    out.push_back(mx::subtract(from[name], to[name]));
  return out;
}

void expect_near(
    const std::vector<float>& found,
    const std::vector<double>& wanted,
    double within,
    const std::string& what) {
  ASSERT_EQ(found.size(), wanted.size()) << what;
  double largest = 0, error = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_TRUE(std::isfinite(found[i])) << what;
    largest = std::max(largest, std::abs(wanted[i]));
    error =
        std::max(error, std::abs(static_cast<double>(found[i]) - wanted[i]));
  }
  EXPECT_GT(largest, 0) << what;
  EXPECT_LE(error, within * largest) << what;
}

TEST(AttributionRule, HoldsThePointsOwnValues) {
  constexpr int steps = 3;
  for (const char* variant : {"llama-gqa", "gpt2", "gemma3"})
    for (const auto& rule : every_rule)
      for (const auto direction : {Direction::denoise, Direction::noise}) {
        const auto model = loaded(variant);
        const bool denoise = direction == Direction::denoise;
        const auto &run = denoise ? corrupt : clean,
                   &source = denoise ? clean : corrupt;
        const auto names = in_layers(model, "mlp_out");
        const auto way =
            ways_of(model, {"layers.0.resid_pre"}, source, run).front();
        std::vector<mx::array> sums;
        for (int k = 0; k < steps; ++k) {
          const auto part =
              mx::multiply(way, mx::array(float(k) / float(steps)));
          const auto own =
              Held(
                  model,
                  rule,
                  run,
                  {{"layers.0.resid_pre",
                    [part](const mx::array& x) { return mx::add(x, part); }}})
                  .gradients(names);
          for (size_t i = 0; i < own.size(); ++i)
            if (k == 0)
              sums.push_back(mx::divide(own[i], mx::array(float(steps))));
            else
              sums[i] =
                  mx::add(sums[i], mx::divide(own[i], mx::array(float(steps))));
        }
        auto options = options_of({"mlp_out"}, rule);
        options.direction = direction;
        options.steps = steps;
        expect_near(
            attribute(model, options)[0].attributions(),
            contracted(sums, ways_of(model, names, source, run), "mlp_out"),
            2e-5,
            fmt::format("{} {}", variant, name(rule)));
      }
}

// Of metrics that read all positions, and their norm with them.
TEST(AttributionRule, HoldsTheHeadOfEveryMetric) {
  const auto model = loaded("gemma3");
  const auto of_run = [](const mx::array& logits) {
    return mx::var(mx::softmax(logits, -1), std::vector{-2, -1});
  };
  const std::vector<std::pair<Metric, Measure>> metrics = {
      {loss(),
       [](const mx::array& logits) {
         const auto n = static_cast<int>(corrupt.size()) - 1;
         const mx::array next(corrupt.data() + 1, {1, n, 1}, mx::int32);
         const auto rows =
             mx::slice(logits, {0, 0, 0}, {1, n, logits.shape(2)});
         return mx::mean(mx::subtract(
             mx::logsumexp(rows, -1, true),
             mx::take_along_axis(rows, next, -1)));
       }},
      {probability(4),
       [](const mx::array& logits) {
         return mx::take(
             mx::softmax(mx::take(logits, logits.shape(1) - 1, 1), -1), 4, -1);
       }},
      {custom_of_run("spread", of_run), of_run}};
  const auto names = in_layers(model, "attn_out");
  const auto ways = ways_of(model, names, clean, corrupt);
  for (const auto& [metric, measure] : metrics)
    for (const auto& rule : every_rule) {
      auto options = options_of({"attn_out"}, rule);
      options.metric = metric;
      options.clean = Inputs::Rows{clean, clean};
      options.corrupt = Inputs::Rows{corrupt, corrupt};
      const auto found = attribute(model, options)[0];
      auto wanted = contracted(
          Held(model, rule, corrupt, {}, measure).gradients(names),
          ways,
          "attn_out");
      // Small ones are known as well as the metric is.
      double largest = 0;
      for (const double value : wanted)
        largest = std::max(largest, std::abs(value));
      expect_near(
          found.attributions(),
          wanted,
          2e-5 + 2e-7 * std::abs(found.sweep.corrupt) / largest,
          metric.name + " " + name(rule));
    }
}

TEST(AttributionRule, GradDropLeavesLayersOutOfIt) {
  for (const char* variant : {"llama-gqa", "gemma3", "falcon"})
    for (const auto& rule : every_rule) {
      const auto model = loaded(variant);
      const int n = model.decoder().config().n_layers;
      ASSERT_GE(n, 2);
      for (const std::string site : {"resid_pre", "attn_out", "attn.v"}) {
        const auto names = in_layers(model, site);
        const auto ways = ways_of(model, names, clean, corrupt);
        const Held held(model, rule);
        std::vector<std::vector<double>> rows;
        for (int dropped = 0; dropped < n; ++dropped)
          rows.push_back(
              contracted(held.gradients(names, dropped), ways, site));
        const auto found = attribute(
            model, options_of({site}, rule, AttributionMethod::grad_drop))[0];
        const double sign = found.sweep.clean < found.sweep.corrupt ? -1 : 1;
        const bool stream = site == "resid_pre";
        std::vector<double> wanted(rows[0].size());
        for (size_t c = 0; c < wanted.size(); ++c) {
          for (int dropped = 0; dropped < n; ++dropped)
            if (stream || dropped != static_cast<int>(c / clean.size()))
              wanted[c] += std::abs(rows[static_cast<size_t>(dropped)][c]);
          wanted[c] *= sign / (stream ? n : n - 1);
        }
        expect_near(
            found.attributions(),
            wanted,
            2e-5,
            fmt::format("{} {} {}", variant, site, name(rule)));
      }
    }
}

// Its own pattern is made again, though the rule holds it; later ones are held.
TEST(AttributionRule, TheQkFixMakesHeldPatternsAgain) {
  const auto model = test::tiny_model();
  const auto patterns = in_layers(model, "attn.pattern");
  EXPECT_SAYS(
      error_of(model, options_of({"q"}, LinearRule::frozen)),
      "the method qk-fix");
  for (const auto& rule : every_rule) {
    const auto gradients = Held(model, rule).gradients(patterns);
    auto options = options_of({"q"}, rule, AttributionMethod::qk_fix);
    options.by = {layer, position, head};
    const auto found = attribute(model, options)[0];
    const auto values = found.attributions();
    const auto heads = static_cast<size_t>(found.sweep.shape()[2]);
    size_t nonzero = 0;
    for (size_t i = 0; i < patterns.size(); ++i)
      for (const size_t p : {size_t{3}, size_t{5}})
        for (size_t h = 0; h < heads; h += 2) {
          const auto q = fmt::format("layers.{}.attn.q", i);
          const auto from = model.run(clean, {.save = {q}})[q];
          const auto at = mx::logical_and(
              mx::reshape(
                  mx::equal(
                      mx::arange(from.shape(1)),
                      mx::array(static_cast<int>(p))),
                  {1, -1, 1, 1}),
              mx::reshape(
                  mx::equal(
                      mx::arange(from.shape(2)),
                      mx::array(static_cast<int>(h))),
                  {1, 1, -1, 1}));
          const auto moved = model.run(
              corrupt,
              {.save = {patterns[i]}, .edits = {{q, [&](const mx::array& x) {
                                                   return mx::where(
                                                       at, from, x);
                                                 }}}});
          const auto run = model.run(corrupt, {.save = {patterns[i]}});
          const double wanted = static_cast<double>(
              mx::sum(mx::multiply(
                          gradients[i],
                          mx::subtract(moved[patterns[i]], run[patterns[i]])))
                  .item<float>());
          const auto value =
              static_cast<double>(values[(i * clean.size() + p) * heads + h]);
          EXPECT_NEAR(value, wanted, 2e-6) << name(rule);
          nonzero += std::abs(wanted) > 1e-5;
        }
    EXPECT_GE(nonzero, 6u) << name(rule);
  }
}

// What the rule promises: gradient times value of what enters the first layer
// adds up to the metric, where nothing behind is added to it. The source's
// tokens have an embedding of zero, so the way from the run is its own value.
TEST(AttributionRule, RelevanceIsConserved) {
  size_t models = 0, uneven = 0;
  double worst = 0;
  const std::vector<int> nothing(corrupt.size(), 50);
  for (const auto& variant : test::supported_variants()) {
    const auto decoder = load_decoder(
        Checkpoint::open(test::families_root / variant),
        {.dtype = mx::float32});
    const auto& config = decoder->config();
    bool adds = config.positions > 0 || config.logit_softcap > 0 ||
                config.d_per_layer > 0 || config.clip_qkv > 0;
    for (const auto& [path, weight] : decoder->mutable_parameters()) {
      adds |= path.ends_with("bias");
      if (path == "embed.weight")
        *weight = mx::where(
            mx::equal(
                mx::reshape(mx::arange(weight->shape(0)), {-1, 1}),
                mx::array(50)),
            mx::array(0.0f),
            *weight);
    }
    if (adds) continue;
    const InterpretableModel model(decoder);
    auto options =
        options_of({"resid_pre"}, linear_rule("relevance+hold(attn.pattern)"));
    options.clean = nothing;
    options.layers = {0};
    const auto said = error_of(model, options);
    if (said.find("says nothing of") != std::string::npos) continue;
    ASSERT_EQ(said, "") << variant;
    const auto sum_by = [&](const LinearRule& rule) {
      options.rule = rule;
      const auto found = attribute(model, options)[0];
      double sum = 0;
      for (const float value : found.attributions())
        sum -= static_cast<double>(value);
      const auto metric = static_cast<double>(found.sweep.corrupt);
      return std::abs(sum - metric) / std::abs(metric);
    };
    const double error = sum_by(options.rule);
    EXPECT_LE(error, 1e-5) << variant;
    worst = std::max(worst, error);
    // The gradient has no such property, nor has relevance through patterns.
    uneven +=
        sum_by(LinearRule::full) > 0.01 && sum_by(LinearRule::relevance) > 0.01;
    ++models;
  }
  std::cout << fmt::format(
      "{} models, {:.2g} of the metric at most; {} not by other rules\n",
      models,
      worst,
      uneven);
  EXPECT_GE(models, 20u);
  EXPECT_GE(uneven, models / 2);
}

}  // namespace
}  // namespace mlxterp
