// Attribution patching: against finite differences in every family, and against
// exact patching where both must agree.

#include "mlxterp/analysis/attribute.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/said.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using enum Axis;

// They share three tokens, differ, and differ again.
const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};

std::vector<Attribution> attributed(
    const InterpretableModel& model,
    std::vector<std::string> sites,
    std::vector<Axis> by = {layer, position},
    Direction direction = Direction::denoise,
    int steps = 1,
    const std::vector<int>& corrupted = corrupt) {
  return attribute(
      model,
      {.clean = clean,
       .corrupt = corrupted,
       .sites = std::move(sites),
       .by = std::move(by),
       .metric = logit_diff(4, 9),
       .direction = direction,
       .steps = steps});
}

mx::array flat(const std::vector<float>& values) {
  return mx::array(values.data(), {static_cast<int>(values.size())});
}

float largest(const std::vector<float>& values) {
  float most = 0;
  for (const float value : values)
    most = std::max(most, std::abs(value));
  return most;
}

float sum(const std::vector<float>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0f);
}

std::string error_of(
    const InterpretableModel& model, const AttributeOptions& options) {
  return test::error_of([&] { attribute(model, options); });
}

/** The metric where one position of a site goes a share of the way from the
 * corrupted run's value to the clean one's. */
class Moved {
 public:
  Moved(
      const InterpretableModel& model,
      const std::string& site,
      const std::vector<int>& corrupted)
      : model_(model),
        site_(site),
        ids_(corrupted),
        clean_(model.run(clean, {.save = {site}})[site]),
        corrupt_(model.run(corrupted, {.save = {site}})[site]) {}

  double metric(int position, float share) const {
    const auto way =
        mx::multiply(mx::subtract(clean_, corrupt_), mx::array(share));
    const bool pattern = site_.ends_with("pattern");
    const auto move = [&](const mx::array& x, const SiteView&) {
      return mx::add(
          x, mx::take(way, mx::array({position}, {1}), pattern ? 2 : 1));
    };
    const auto run = model_.run(
        ids_,
        {.save = {"logits"},
         .edits = {{site_, at_positions({position}, move)}}});
    return static_cast<double>(
        measure(model_, logit_diff(4, 9), run["logits"]));
  }

  // Of fourth order: the step can be large enough for float32.
  double derivative(int position, float h) const {
    const auto at = [&](float share) { return metric(position, share); };
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
  }

 private:
  const InterpretableModel& model_;
  std::string site_;
  std::vector<int> ids_;
  mx::array clean_, corrupt_;
};

bool in_every_layer(const InterpretableModel& model, const std::string& site) {
  for (int i = 0; i < model.decoder().config().n_layers; ++i)
    if (!model.sites().contains("layers." + std::to_string(i) + "." + site))
      return false;
  return true;
}

// Where attribution and finite differences do not agree, a line each.
std::vector<std::string> disagreements(
    const InterpretableModel& model,
    const std::vector<std::string>& sites,
    const std::vector<int>& corrupted) {
  const int layers = model.decoder().config().n_layers;
  const int positions = static_cast<int>(clean.size());
  std::vector<std::string> off;
  double worst = 0;
  const auto all = attributed(
      model, sites, {layer, position}, Direction::denoise, 1, corrupted);
  // Those of attention only where every layer has it.
  const bool attends = in_every_layer(model, "attn.z");
  const bool alone = !in_every_layer(model, "mlp_out");
  EXPECT_GE(all.size(), attends ? 8u : alone ? 3u : 5u);
  for (const auto& [site, sweep] : all) {
    const auto values = Attribution{site, sweep}.attributions();
    const double size = largest(values);
    EXPECT_GT(size, 0) << site;
    for (const int i : {0, layers - 1}) {
      const Moved moved(model, fmt::format("layers.{}.{}", i, site), corrupted);
      for (const int p : {3, positions - 1}) {
        const double value = values[static_cast<size_t>(i * positions + p)];
        double error = INFINITY;
        // A long step may cross where an expert or a ReLU switches, a short
        // one drowns in float32.
        for (const float h : {0.03f, 0.005f, 0.001f, 0.1f, 0.01f})
          if (!(error <= 1e-3))
            error = std::min(
                error, std::abs(value - moved.derivative(p, h)) / size);
        worst = std::max(worst, error);
        if (!(error <= 1e-3))
          off.push_back(fmt::format("{} {} {}: {:.3g}", site, i, p, error));
      }
      // Before the prompts differ there is nothing to patch.
      EXPECT_LE(
          std::abs(values[static_cast<size_t>(i * positions)]), 1e-5 * size)
          << site;
    }
  }
  std::printf("largest error %.3g of the largest attribution\n", worst);
  return off;
}

class AttributeFamilies : public testing::TestWithParam<std::string> {};

// Where a bound or a ReLU switches closer than any step that float32 can take,
// finite differences tell nothing; at another prompt they do. A wrong gradient
// is wrong at all of them.
TEST_P(AttributeFamilies, AgreesWithFiniteDifferences) {
  const auto model =
      InterpretableModel::load((test::families_root / GetParam()).string());
  std::vector<std::string> sites;
  for (const auto* name :
       {"resid_pre",
        "resid_mid",
        "resid_post",
        "attn_out",
        "mlp_out",
        "attn.z",
        "attn.q",
        "attn.k",
        "attn.v",
        "attn.pattern",
        "mlp.post"})
    if (in_every_layer(model, name)) sites.emplace_back(name);
  std::vector<std::string> off;
  std::vector<std::pair<int, int>> prompts = {
      {30, 14}, {31, 15}, {44, 17}, {52, 60}, {71, 9}};
  for (int n = 1; n < 20; ++n)
    prompts.emplace_back(13 + 7 * n % 80, 14 + 11 * n % 80);
  for (const auto& [first, second] : prompts) {
    off = disagreements(model, sites, {5, 11, 3, first, 7, second, 2});
    if (off.empty()) return;
  }
  ADD_FAILURE() << fmt::format("{}", fmt::join(off, "\n"));
}

INSTANTIATE_TEST_SUITE_P(
    All,
    AttributeFamilies,
    testing::ValuesIn(test::supported_variants()),
    [](const auto& tested) { return test::test_name(tested.param); });

// Norms that do next to nothing: x / sqrt(mean(x^2) + 1e12) * 1e6.
InterpretableModel without_norms(bool mlps = true) {
  auto config = test::tiny_config();
  config.norm.eps = 1e12f;
  const auto decoder = test::tiny_decoder(config);
  for (const auto& [path, weight] : decoder->mutable_parameters())
    if (path.find("ln") != std::string::npos)
      *weight = mx::full(weight->shape(), 1e6f);
    else if (!mlps && path.find("down_proj") != std::string::npos)
      *weight = mx::zeros(weight->shape());
  return InterpretableModel(decoder);
}

TEST(Attribute, IsExactForALinearMetricAtTheLastLayer) {
  const auto model = without_norms();
  for (const auto direction : {Direction::denoise, Direction::noise})
    for (const auto* site : {"mlp_out", "resid_post", "mlp.post"}) {
      PatchOptions options{
          .clean = clean,
          .corrupt = corrupt,
          .site = site,
          .metric = logit_diff(4, 9),
          .direction = direction,
          .layers = {-1}};
      const auto exact = patch(model, options);
      const auto estimate = attribute(
          model,
          {.clean = clean,
           .corrupt = corrupt,
           .sites = {site},
           .metric = options.metric,
           .direction = direction,
           .layers = {-1}})[0];
      EXPECT_NE(exact.metric.back(), exact.metric.front());
      test::expect_close(
          flat(estimate.sweep.metric),
          flat(exact.metric),
          1e-4 * largest(exact.metric),
          clean.size(),
          site);
      EXPECT_NEAR(estimate.sweep.clean, exact.clean, 1e-5);
      EXPECT_NEAR(estimate.sweep.corrupt, exact.corrupt, 1e-5);
      const auto agreement = compare(exact, estimate.sweep);
      EXPECT_GT(agreement.pearson, 0.9999);
    }
}

TEST(Attribute, OfCleanIntoCleanIsNothing) {
  const auto model = test::tiny_model();
  const auto out = attribute(
      model,
      {.clean = clean,
       .corrupt = clean,
       .sites = {"resid_pre", "z"},
       .metric = logit_diff(4, 9)});
  for (const auto& [site, sweep] : out)
    for (const float value : sweep.metric)
      EXPECT_EQ(value, sweep.clean) << site;
}

TEST(Attribute, AllSitesAtOnceAreEachAlone) {
  const auto model = test::tiny_model();
  const std::vector<std::string> sites = {
      "resid_pre", "resid_mid", "resid_post", "attn_out", "z", "q", "mlp.pre"};
  const auto together = attributed(model, sites);
  for (size_t i = 0; i < sites.size(); ++i)
    test::expect_close(
        flat(together[i].sweep.metric),
        flat(attributed(model, {sites[i]})[0].sweep.metric),
        1e-6,
        3 * clean.size(),
        sites[i]);
  // What leaves a layer is what enters the next one.
  const auto pre = together[0].attributions(),
             post = together[2].attributions();
  for (size_t i = 0; i + clean.size() < pre.size(); ++i)
    EXPECT_NEAR(post[i], pre[i + clean.size()], 1e-6);
}

TEST(Attribute, HeadsAndNeuronsAreKnownApart) {
  const auto model = test::tiny_model();  // 6 heads, 2 kv heads
  const auto z = attributed(model, {"z"}, {layer, head})[0];
  EXPECT_EQ(z.sweep.shape(), (std::vector<int>{3, 6}));
  const auto k = attributed(model, {"k"}, {layer, position, head})[0];
  EXPECT_EQ(k.sweep.shape(), (std::vector<int>{3, 7, 2}));
  const auto post = attributed(model, {"mlp.post"}, {neuron, layer})[0];
  EXPECT_EQ(post.sweep.shape(), (std::vector<int>{40, 3}));
  for (const auto* it : {&z, &k, &post}) {
    const auto whole = attributed(model, {it->site}, {layer})[0];
    EXPECT_NEAR(sum(it->attributions()), sum(whole.attributions()), 1e-5)
        << it->site;
  }
  // Only some of them.
  const auto some = attribute(
      model,
      {.clean = clean,
       .corrupt = corrupt,
       .sites = {"z"},
       .by = {layer},
       .metric = logit_diff(4, 9),
       .layers = {1},
       .heads = {2, -1}})[0];
  const auto heads = z.attributions();
  EXPECT_NEAR(some.attributions()[0], heads[6 + 2] + heads[6 + 5], 1e-6);
}

TEST(Attribute, IntegratedGradientsAreComplete) {
  // At the embeddings they sum to what lies between the two runs.
  const auto model = test::tiny_model();
  for (const auto direction : {Direction::denoise, Direction::noise}) {
    double before = INFINITY;
    for (const int steps : {1, 20, 400}) {
      const auto out = attribute(
          model,
          {.clean = clean,
           .corrupt = corrupt,
           .metric = logit_diff(4, 9),
           .direction = direction,
           .steps = steps,
           .layers = {0}})[0];
      const double way = out.sweep.clean - out.sweep.corrupt;
      const double sign = direction == Direction::denoise ? 1 : -1;
      const double error = std::abs(sum(out.attributions()) - sign * way);
      std::printf("%d steps: off by %.3g of %.3g\n", steps, error, way);
      EXPECT_LT(error, before);
      before = error;
    }
    EXPECT_LT(before, 2e-3);
  }
}

TEST(Attribute, PairsAreAveraged) {
  const auto model = test::tiny_model();
  const Inputs::Rows cleans = {clean, {1, 2, 3, 4, 5, 6, 7}};
  const Inputs::Rows corrupts = {corrupt, {1, 2, 9, 4, 5, 6, 8}};
  const auto metric = logit_diff(std::vector<Token>{4, 7}, 9);
  const auto both = attribute(
      model, {.clean = cleans, .corrupt = corrupts, .metric = metric})[0];
  std::vector<std::vector<float>> each;
  for (size_t i = 0; i < 2; ++i)
    each.push_back(attribute(
                       model,
                       {.clean = cleans[i],
                        .corrupt = corrupts[i],
                        .metric = logit_diff(i == 0 ? 4 : 7, 9)})[0]
                       .sweep.metric);
  EXPECT_EQ(both.sweep.pairs, 2u);
  for (size_t c = 0; c < both.sweep.cells(); ++c) {
    EXPECT_NEAR(both.sweep.metric[c], (each[0][c] + each[1][c]) / 2, 1e-5);
    EXPECT_NEAR(
        both.sweep.spread[c], std::abs(each[0][c] - each[1][c]) / 2, 1e-4);
  }
}

TEST(Attribute, PromptsOfOtherLengthsAreAligned) {
  // Without MLPs the last layer's values are linear too, at all positions.
  const auto model = without_norms(false);
  auto longer = clean;
  longer.insert(longer.begin() + 3, 17);
  const std::vector<std::pair<int, int>> pairs = {
      {0, 0}, {1, 1}, {2, 2}, {4, 3}, {5, 4}, {6, 5}, {7, 6}};
  for (const auto direction : {Direction::denoise, Direction::noise}) {
    const auto out = attribute(
        model,
        {.clean = longer,
         .corrupt = corrupt,
         .sites = {"v"},
         .metric = logit_diff(4, 9),
         .direction = direction,
         .layers = {-1},
         .position_map = pairs})[0];
    const auto exact = patch(
        model,
        {.clean = longer,
         .corrupt = corrupt,
         .site = "v",
         .metric = logit_diff(4, 9),
         .direction = direction,
         .layers = {-1},
         .position_map = pairs});
    EXPECT_NEAR(out.sweep.clean, exact.clean, 1e-5);
    EXPECT_NEAR(out.sweep.corrupt, exact.corrupt, 1e-5);
    EXPECT_GT(largest(out.attributions()), 1e-3);
    test::expect_close(
        flat(out.sweep.metric),
        flat(exact.metric),
        1e-4 * largest(exact.metric),
        direction == Direction::noise ? 8 : 7,
        "v");
    if (direction == Direction::noise) {  // nothing stands for 3
      EXPECT_EQ(out.attributions()[3], 0);
    }
  }
}

TEST(Attribute, EveryMetricWithAGradient) {
  // Integrated gradients at the embeddings, against going all the way.
  const auto model = test::tiny_model();
  const auto entropy = custom("entropy", [](const mx::array& logits) {
    const auto p = mx::softmax(logits, -1);
    return mx::negative(mx::sum(mx::multiply(p, mx::log(p)), -1));
  });
  const auto spread = custom_of_run("spread", [](const mx::array& logits) {
    return mx::var(mx::softmax(logits, -1), std::vector{0, 1});
  });
  for (const auto& metric :
       {logit(4),
        probability(4),
        log_probability(4),
        kl_divergence(),
        loss(),
        entropy,
        spread})
    for (const auto direction : {Direction::denoise, Direction::noise}) {
      const auto out = attribute(
          model,
          {.clean = clean,
           .corrupt = corrupt,
           .by = {layer},
           .metric = metric,
           .direction = direction,
           .steps = 300,  // of several chunks
           .layers = {0}})[0];
      const auto exact = patch(
          model,
          {.clean = clean,
           .corrupt = corrupt,
           .by = {layer},
           .metric = metric,
           .direction = direction,
           .layers = {0}});
      EXPECT_NEAR(out.sweep.clean, exact.clean, 1e-5) << metric.name;
      EXPECT_NEAR(out.sweep.corrupt, exact.corrupt, 1e-5) << metric.name;
      const bool denoise = direction == Direction::denoise;
      const float way =
          exact.metric[0] - (denoise ? exact.corrupt : exact.clean);
      EXPECT_NE(way, 0) << metric.name;
      EXPECT_NEAR(out.attributions()[0], way, 0.01f * std::abs(way))
          << metric.name;
    }
}

TEST(Attribute, SaysWhatIsWrongBeforeLongWork) {
  const auto model = test::tiny_model();
  const auto with = [&](auto change) {
    AttributeOptions options{
        .clean = clean, .corrupt = corrupt, .metric = logit_diff(4, 9)};
    change(options);
    return error_of(model, options);
  };
  EXPECT_SAYS(with([](auto& o) { o.sites = {}; }), "no site");
  EXPECT_SAYS(
      with([](auto& o) {
        o.sites = {"z", "attn.z"};
      }),
      "'attn.z' is given twice");
  EXPECT_SAYS(with([](auto& o) { o.sites = {"resid_per"}; }), "resid_pre");
  EXPECT_SAYS(with([](auto& o) { o.sites = {"attn.scores"}; }), "scores");
  EXPECT_SAYS(
      with([](auto& o) {
        o.sites = {"z", "resid_pre"};
        o.by = {layer, head};
      }),
      "[attribute] 'resid_pre' has no heads");
  EXPECT_SAYS(with([](auto& o) { o.by = {layer, neuron, layer}; }), "twice");
  EXPECT_SAYS(with([](auto& o) { o.metric = rank(4); }), "no gradient");
  EXPECT_SAYS(with([](auto& o) { o.steps = 0; }), "steps is 0");
  EXPECT_SAYS(with([](auto& o) { o.layers = {3}; }), "layer 3");
  EXPECT_SAYS(with([](auto& o) { o.corrupt = {1, 2}; }), "equally long");
  EXPECT_SAYS(
      with([](auto& o) {
        o.metric = custom("broken", [](const mx::array& x) {
          return mx::log(mx::multiply(mx::take(x, 0, 1), mx::array(0.0f)));
        });
      }),
      "'broken'");
}

Sweep sweep_of(std::vector<float> metric) {
  Sweep out;
  out.axes = {{layer, {0, 1, 2, 3}}};
  out.metric = std::move(metric);
  return out;
}

TEST(Compare, TellsCorrelationsAndTheWorst) {
  const auto exact = sweep_of({0, 1, 2, 3});
  const auto agreement = compare(exact, sweep_of({0, 1, 4, 9}), 2);
  EXPECT_NEAR(agreement.spearman, 1, 1e-12);
  EXPECT_NEAR(agreement.pearson, 0.9583, 1e-4);
  ASSERT_EQ(agreement.worst.size(), 2u);
  EXPECT_EQ(agreement.worst[0].cell, 3u);
  EXPECT_EQ(agreement.worst[0].exact, 3);
  EXPECT_EQ(agreement.worst[0].approximate, 9);
  EXPECT_EQ(agreement.worst[1].cell, 2u);
  // Equal values share a rank: 0.5, 0.5, 2, 3 against 0 to 3.
  EXPECT_NEAR(compare(exact, sweep_of({1, 1, 2, 3})).spearman, 0.9487, 1e-4);
  EXPECT_TRUE(std::isnan(compare(exact, sweep_of({1, 1, 1, 1})).pearson));
  auto other = exact;
  other.axes[0].values[0] = 9;
  EXPECT_THROW(compare(exact, other), Error);
}

}  // namespace
}  // namespace mlxterp
