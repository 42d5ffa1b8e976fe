// Which run is changed and which one is given: both directions, against passes
// run one by one here, without any sweep.

#include "mlxterp/analysis/sweep.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "mlx/ops.h"
#include "mlxterp/analysis/attribute.h"
#include "mlxterp/analysis/path_patch.h"
#include "mlxterp/core/error.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};
const Metric metric = logit_diff(4, 9);

float said(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const std::vector<Edit>& edits = {}) {
  return measure(
      model,
      metric,
      model.run(ids, {.save = {"logits"}, .edits = edits})["logits"]);
}

struct Runs {
  std::vector<int> run, source;
};

Runs of(Direction direction) {
  if (direction == Direction::denoise) return {corrupt, clean};
  return {clean, corrupt};
}

// effect() and delta() as they are documented.
void expect_derived(const Sweep& sweep, const std::string& what) {
  const bool denoise = sweep.direction == Direction::denoise;
  const float run = denoise ? sweep.corrupt : sweep.clean;
  const float source = denoise ? sweep.clean : sweep.corrupt;
  const auto effect = sweep.effect(), delta = sweep.delta();
  ASSERT_EQ(effect.size(), sweep.cells()) << what;
  ASSERT_EQ(delta.size(), sweep.cells()) << what;
  for (size_t i = 0; i < sweep.cells(); ++i) {
    EXPECT_NEAR(delta[i], sweep.metric[i] - run, 1e-6) << what;
    EXPECT_NEAR(effect[i], (sweep.metric[i] - run) / (source - run), 1e-5)
        << what;
  }
}

TEST(Sweep, EffectAndDeltaCountFromTheRunThatIsPatched) {
  Sweep sweep;
  sweep.metric = {2, 10, 4, 0};
  sweep.clean = 10;
  sweep.corrupt = 2;
  EXPECT_EQ(sweep.effect(), (std::vector<float>{0, 1, 0.25f, -0.25f}));
  EXPECT_EQ(sweep.delta(), (std::vector<float>{0, 8, 2, -2}));
  sweep.direction = Direction::noise;
  EXPECT_EQ(sweep.effect(), (std::vector<float>{1, 0, 0.75f, 1.25f}));
  EXPECT_EQ(sweep.delta(), (std::vector<float>{-8, 0, -6, -10}));
  sweep.corrupt = 10;
  EXPECT_THROW(sweep.effect(), Error);
  sweep.corrupt = NAN;
  EXPECT_THROW(sweep.effect(), Error);
}

TEST(Sweep, EitherDirectionIsThatOfPlainPasses) {
  const auto model = test::tiny_model();
  ASSERT_GT(std::abs(said(model, clean) - said(model, corrupt)), 1e-2);
  for (const auto direction : {Direction::denoise, Direction::noise})
    for (const bool plain : {false, true}) {
      const auto [run, source] = of(direction);
      const auto sweep = patch(
          model,
          {.clean = clean,
           .corrupt = corrupt,
           .site = "mlp_out",
           .metric = metric,
           .direction = direction,
           .one_pass_per_cell = plain});
      const auto what = fmt::format(
          "{}{}",
          direction == Direction::denoise ? "denoise" : "noise",
          plain ? ", plain" : "");
      EXPECT_EQ(sweep.direction, direction) << what;
      EXPECT_EQ(sweep.ids, run) << what;
      EXPECT_NEAR(sweep.clean, said(model, clean), 1e-5) << what;
      EXPECT_NEAR(sweep.corrupt, said(model, corrupt), 1e-5) << what;
      ASSERT_EQ(sweep.shape(), (std::vector{3, 7})) << what;
      for (int i = 0; i < 3; ++i) {
        const auto site = fmt::format("layers.{}.mlp_out", i);
        const auto given = model.run(source, {.save = {site}})[site];
        for (int p = 0; p < 7; ++p)
          EXPECT_NEAR(
              sweep.metric[static_cast<size_t>(7 * i + p)],
              said(
                  model,
                  run,
                  {{site,
                    at_positions(
                        {p},
                        replace_with(
                            mx::take(given, mx::array({p}, {1}), 1)))}}),
              1e-5)
              << what << " " << i << " " << p;
      }
      expect_derived(sweep, what);
    }
}

TEST(Sweep, AttributionsGoTheSameWay) {
  const auto model = test::tiny_model();
  for (const auto direction : {Direction::denoise, Direction::noise}) {
    const auto out = attribute(
        model,
        {.clean = clean,
         .corrupt = corrupt,
         .metric = metric,
         .direction = direction,
         .steps = 50,
         .layers = {0}})[0];
    EXPECT_EQ(out.sweep.direction, direction);
    EXPECT_EQ(out.sweep.ids, of(direction).run);
    EXPECT_NEAR(out.sweep.clean, said(model, clean), 1e-5);
    EXPECT_NEAR(out.sweep.corrupt, said(model, corrupt), 1e-5);
    // At the embeddings the way of the gradients is that from run to source.
    const auto [run, source] = of(direction);
    float sum = 0;
    for (const float value : out.attributions())
      sum += value;
    const float way = said(model, source) - said(model, run);
    EXPECT_NEAR(sum, way, 0.05f * std::abs(way));
    expect_derived(out.sweep, "attribute");
  }
}

TEST(Sweep, PathsGoTheSameWay) {
  const auto model = test::tiny_model();
  for (const auto direction : {Direction::denoise, Direction::noise}) {
    const auto [run, source] = of(direction);
    // From the last layer's MLP there is one path to the logits.
    const auto sweep = path_patch(
        model,
        {.clean = clean,
         .corrupt = corrupt,
         .senders = "mlp_out",
         .metric = metric,
         .direction = direction});
    EXPECT_EQ(sweep.direction, direction);
    EXPECT_EQ(sweep.ids, run);
    EXPECT_NEAR(sweep.clean, said(model, clean), 1e-5);
    EXPECT_NEAR(sweep.corrupt, said(model, corrupt), 1e-5);
    const auto given =
        model.run(source, {.save = {"layers.2.mlp_out"}})["layers.2.mlp_out"];
    const float wanted =
        said(model, run, {{"layers.2.mlp_out", replace_with(given)}});
    EXPECT_GT(std::abs(wanted - said(model, run)), 1e-4);
    EXPECT_NEAR(sweep.metric.back(), wanted, 1e-5);
    expect_derived(sweep, "path_patch");
  }
}

// The divergence starts from the clean run, whichever is changed.
TEST(Sweep, KlDivergenceStartsFromTheCleanRun) {
  const auto model = test::tiny_model();
  const auto last = [&](const std::vector<int>& ids) {
    auto row = mx::contiguous(
        mx::take(mx::squeeze(model(ids), 0), mx::array({6}, {1}), 0));
    row.eval();
    return std::vector<double>(
        row.data<float>(), row.data<float>() + row.size());
  };
  const auto kl = [](const std::vector<double>& p,
                     const std::vector<double>& q) {
    const auto norm = [](const std::vector<double>& x) {
      double sum = 0;
      for (const double v : x)
        sum += std::exp(v);
      return std::log(sum);
    };
    double sum = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      const double log_p = p[i] - norm(p), log_q = q[i] - norm(q);
      sum += std::exp(log_p) * (log_p - log_q);
    }
    return sum;
  };
  const double wanted = kl(last(clean), last(corrupt));
  // Else the test could not tell them apart.
  ASSERT_GT(std::abs(wanted - kl(last(corrupt), last(clean))), 5e-5);
  for (const auto direction : {Direction::denoise, Direction::noise})
    for (const bool plain : {false, true}) {
      const auto sweep = patch(
          model,
          {.clean = clean,
           .corrupt = corrupt,
           .metric = kl_divergence(),
           .direction = direction,
           .one_pass_per_cell = plain});
      EXPECT_NEAR(sweep.corrupt, wanted, 1e-5);
      EXPECT_NEAR(sweep.clean, 0, 1e-5);
    }
}

}  // namespace
}  // namespace mlxterp
