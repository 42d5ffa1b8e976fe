// AtP*: the QK fix and GradDrop, against patterns that the model makes of
// patched queries and keys, and against its gradient with layers cut out.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/attribute.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/said.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using enum Axis;

const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};

AttributeOptions options_of(
    std::vector<std::string> sites,
    AttributionMethod method,
    std::vector<Axis> by = {layer, position, head}) {
  return {
      .clean = clean,
      .corrupt = corrupt,
      .sites = std::move(sites),
      .by = std::move(by),
      .metric = logit_diff(4, 9),
      .method = method};
}

std::string error_of(
    const InterpretableModel& model, const AttributeOptions& options) {
  return test::error_of([&] { attribute(model, options); });
}

int layers_of(const InterpretableModel& model) {
  return model.decoder().config().n_layers;
}

std::string name_of(int i, const std::string& site) {
  return fmt::format("layers.{}.{}", i, site);
}

std::vector<int> layers_with(
    const InterpretableModel& model, const std::string& site) {
  std::vector<int> out;
  for (int i = 0; i < layers_of(model); ++i)
    if (model.sites().contains(name_of(i, site))) out.push_back(i);
  return out;
}

/** Of the corrupted run, the gradient at each of `names`; where a layer is
 * dropped, with all that it writes held. */
std::vector<mx::array> gradients_at(
    const InterpretableModel& model,
    const std::vector<std::string>& names,
    int dropped = -1) {
  const auto run = model.run(corrupt, {.save = names});
  std::vector<mx::array> zeros;
  for (const auto& name : names)
    zeros.push_back(mx::zeros(run[name].shape(), mx::float32));
  const auto metric = [&](const std::vector<mx::array>& added) {
    std::vector<Edit> edits;
    for (size_t i = 0; i < names.size(); ++i)
      edits.push_back({names[i], [&added, i](const mx::array& x) {
                         return mx::add(x, mx::astype(added[i], x.dtype()));
                       }});
    for (const auto* site : {"attn_out", "mlp_out", "ple_out"})
      if (dropped >= 0 && model.sites().contains(name_of(dropped, site)))
        edits.push_back({name_of(dropped, site), [](const mx::array& x) {
                           return mx::stop_gradient(x);
                         }});
    const auto trace = model.trace(corrupt, std::move(edits));
    const auto last = mx::astype(
        mx::take(trace.output(), static_cast<int>(corrupt.size()) - 1, 1),
        mx::float32);
    return std::vector{mx::reshape(
        mx::subtract(mx::take(last, 4, -1), mx::take(last, 9, -1)), {})};
  };
  auto found = mx::vjp(metric, zeros, {mx::array(1.0f)}).second;
  mx::eval(found);
  return found;
}

float total(const mx::array& x) {
  return mx::sum(x).item<float>();
}

/** How the model's own patterns change where one position and head of a site
 * takes the clean run's value and nothing else of the stream does. */
class PatternsOf {
 public:
  explicit PatternsOf(const InterpretableModel& model) : model_(model) {
    for (const int i : layers_with(model, "attn.pattern"))
      names_.push_back(name_of(i, "attn.pattern"));
    auto save = names_;
    for (int i = 0; i < layers_of(model); ++i)
      save.push_back(name_of(i, "attn_out"));
    base_.emplace(model.run(corrupt, {.save = save}));
  }

  const std::vector<std::string>& names() const { return names_; }

  std::vector<mx::array> changes(
      int i, const std::string& site, int position, int unit) const {
    const auto name = name_of(i, site);
    const auto from = model_.run(clean, {.save = {name}})[name];
    const auto moved = [&](const mx::array& x) {
      const auto at = mx::reshape(
          mx::equal(mx::arange(x.shape(1)), mx::array(position)),
          {1, -1, 1, 1});
      const auto of = mx::reshape(
          mx::equal(mx::arange(x.shape(2)), mx::array(unit)), {1, 1, -1, 1});
      return mx::where(mx::logical_and(at, of), from, x);
    };
    std::vector<Edit> edits = {{name, moved}};
    // Keys may be read by several layers.
    for (int j = 0; j < layers_of(model_); ++j)
      edits.push_back(
          {name_of(j, "attn_out"),
           [held = (*base_)[name_of(j, "attn_out")]](const mx::array&) {
             return held;
           }});
    const auto run = model_.run(corrupt, {.save = names_, .edits = edits});
    std::vector<mx::array> changes;
    for (const auto& it : names_)
      changes.push_back(mx::subtract(
          mx::astype(run[it], mx::float32),
          mx::astype((*base_)[it], mx::float32)));
    return changes;
  }

 private:
  const InterpretableModel& model_;
  std::vector<std::string> names_;
  std::optional<ActivationCache> base_;
};

double contracted(
    const std::vector<mx::array>& gradients,
    const std::vector<mx::array>& changes) {
  double sum = 0;
  for (size_t i = 0; i < gradients.size(); ++i)
    sum += static_cast<double>(total(mx::multiply(gradients[i], changes[i])));
  return sum;
}

float largest(const std::vector<float>& values) {
  float most = 0;
  for (const float value : values)
    most = std::max(most, std::abs(value));
  return most;
}

/** What patterns that the model makes say of some nodes. */
void expect_fixed(
    const InterpretableModel& model, const std::string& site, int every = 1) {
  const PatternsOf patterns(model);
  const auto gradients = gradients_at(model, patterns.names());
  const auto having = layers_with(model, site);
  ASSERT_FALSE(having.empty());
  const int positions = static_cast<int>(corrupt.size());
  double worst = 0;
  size_t compared = 0;
  float most = 0;
  for (const int i : having) {
    if (i % every != 0 && i != having.back()) continue;
    auto options = options_of({site}, AttributionMethod::qk_fix);
    options.layers = {i};
    const auto found = attribute(model, options)[0];
    const auto values = found.attributions();
    const int heads = found.sweep.shape()[2];
    most = std::max(most, largest(values));
    for (const int p : {3, positions - 2 + i % 2}) {
      const int h = (i + p) % heads;
      const double own = contracted(gradients, patterns.changes(i, site, p, h));
      const auto value =
          static_cast<double>(values[static_cast<size_t>(p * heads + h)]);
      const double error =
          std::abs(value - own) / static_cast<double>(largest(values) + 1e-9f);
      worst = std::max(worst, error);
      EXPECT_LE(error, 5e-4) << site << " " << i << " " << p << " " << h << ": "
                             << value << " is not " << own;
      ++compared;
    }
    // Equal rows of one product may differ in their last bits.
    EXPECT_LE(std::abs(values[0]), 1e-5f * largest(values))
        << "before the prompts differ";
  }
  EXPECT_GT(most, 0) << site;
  EXPECT_GE(compared, 2u);
  std::printf(
      "%s: %zu nodes, largest error %.3g\n", site.c_str(), compared, worst);
}

/** What the model's gradients with layers cut out say of all nodes. */
void expect_dropped(
    const InterpretableModel& model, const std::vector<std::string>& sites) {
  const int n = layers_of(model);
  std::vector<std::string> names;
  for (const auto& site : sites)
    for (const int i : layers_with(model, site))
      names.push_back(name_of(i, site));
  const auto from = model.run(clean, {.save = names});
  const auto run = model.run(corrupt, {.save = names});
  std::vector<std::vector<mx::array>> gradients;
  for (int dropped = 0; dropped < n; ++dropped)
    gradients.push_back(gradients_at(model, names, dropped));
  const auto found = attribute(
      model,
      options_of(sites, AttributionMethod::grad_drop, {layer, position}));
  double worst = 0;
  size_t compared = 0, at = 0;
  for (const auto& it : found) {
    const auto values = it.attributions();
    const bool stream = it.site.starts_with("resid");
    const double sign = it.sweep.clean < it.sweep.corrupt ? -1 : 1;
    const auto layers = layers_with(model, it.site);
    ASSERT_EQ(values.size(), layers.size() * corrupt.size());
    for (size_t i = 0; i < layers.size(); ++i, ++at) {
      const auto way = mx::subtract(
          mx::astype(from[names[at]], mx::float32),
          mx::astype(run[names[at]], mx::float32));
      for (size_t p = 0; p < corrupt.size(); ++p) {
        double sum = 0;
        for (int dropped = 0; dropped < n; ++dropped)
          if (stream || dropped != layers[i])
            sum += std::abs(static_cast<double>(total(mx::take(
                mx::multiply(gradients[static_cast<size_t>(dropped)][at], way),
                static_cast<int>(p),
                1))));
        const double own = sign * sum / (stream ? n : n - 1);
        const auto value = static_cast<double>(values[i * corrupt.size() + p]);
        const double error =
            std::abs(value - own) / static_cast<double>(largest(values));
        worst = std::max(worst, error);
        EXPECT_LE(error, 1e-3) << it.site << " " << layers[i] << " " << p
                               << ": " << value << " is not " << own;
        ++compared;
      }
    }
  }
  EXPECT_EQ(compared, names.size() * corrupt.size());
  std::printf("%zu nodes, largest error %.3g\n", compared, worst);
}

// Norms that do next to nothing and MLPs that do nothing: the last layer's
// patterns are what the metric is linear in. Queries are larger by `sharp`.
InterpretableModel linear_behind_patterns(float sharp) {
  auto config = test::tiny_config();
  config.norm.eps = 1e12f;
  const auto decoder = test::tiny_decoder(config);
  for (const auto& [path, weight] : decoder->mutable_parameters())
    if (path.find("ln") != std::string::npos)
      *weight = mx::full(weight->shape(), 1e6f);
    else if (path.find("down_proj") != std::string::npos)
      *weight = mx::zeros(weight->shape());
    else if (path.find("q_proj") != std::string::npos)
      *weight = mx::multiply(*weight, mx::array(sharp));
  return InterpretableModel(decoder);
}

TEST(QkFix, IsExactWhereTheMetricIsLinearInPatterns) {
  for (const float sharp : {40.0f, 4000.0f}) {
    const auto model = linear_behind_patterns(sharp);
    for (const auto direction : {Direction::denoise, Direction::noise})
      for (const auto* site : {"q", "k", "rot_q", "rot_k"}) {
        PatchOptions exact_options{
            .clean = clean,
            .corrupt = corrupt,
            .site = site,
            .by = {position, head},
            .metric = logit_diff(4, 9),
            .direction = direction,
            .layers = {-1}};
        const auto exact = patch(model, exact_options);
        auto options =
            options_of({site}, AttributionMethod::qk_fix, {position, head});
        options.direction = direction;
        options.layers = {-1};
        const auto fixed = attribute(model, options)[0].sweep;
        options.method = AttributionMethod::atp;
        const auto plain = attribute(model, options)[0].sweep;
        const auto off = [&](const Sweep& other) {
          float most = 0, size = 0;
          const auto wanted = exact.delta(), given = other.delta();
          EXPECT_EQ(wanted.size(), given.size());
          for (size_t i = 0; i < wanted.size(); ++i) {
            EXPECT_TRUE(std::isfinite(given[i]));
            most = std::max(most, std::abs(wanted[i] - given[i]));
            size = std::max(size, std::abs(wanted[i]));
          }
          EXPECT_GT(size, 0);
          return most / size;
        };
        const float error = off(fixed), without = off(plain);
        std::printf(
            "%g %s: %.3g with, %.3g without\n", sharp, site, error, without);
        EXPECT_LE(error, 1e-3) << site;
        EXPECT_GT(without, sharp > 40 ? 0.3f : 0.01f) << site;
      }
  }
}

TEST(QkFix, OtherSitesStayAndSumsAreOfNodes) {
  const auto model = test::tiny_model();
  const auto fixed =
      attribute(model, options_of({"q", "k", "z"}, AttributionMethod::qk_fix));
  const auto plain =
      attribute(model, options_of({"z"}, AttributionMethod::atp));
  EXPECT_EQ(fixed[1].sweep.shape(), (std::vector<int>{3, 7, 2}));
  const auto z = fixed[2].attributions(), own = plain[0].attributions();
  ASSERT_EQ(z.size(), own.size());
  for (size_t i = 0; i < z.size(); ++i)
    EXPECT_NEAR(z[i], own[i], 1e-6);
  const auto sums = attribute(
      model, options_of({"q", "k"}, AttributionMethod::qk_fix, {layer}));
  for (size_t s = 0; s < 2; ++s) {
    const auto nodes = fixed[s].attributions();
    const auto whole = sums[s].attributions();
    ASSERT_EQ(whole.size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      const size_t each = nodes.size() / 3;
      double sum = 0;
      for (size_t c = 0; c < each; ++c)
        sum += static_cast<double>(nodes[i * each + c]);
      EXPECT_NEAR(whole[i], sum, 1e-5);
    }
  }
}

TEST(AtpStar, IsBothAndStepsAndPairsAreMeans) {
  const auto model = test::tiny_model();
  const PatternsOf patterns(model);
  auto options = options_of({"q", "k"}, AttributionMethod::atp_star);
  const auto found = attribute(model, options);
  size_t compared = 0;
  for (const auto& it : found) {
    const auto values = it.attributions();
    const int heads = it.sweep.shape()[2];
    const double sign = it.sweep.clean < it.sweep.corrupt ? -1 : 1;
    for (const int i : {0, 2})
      for (const int p : {3, 5}) {
        const auto changes =
            patterns.changes(i, "attn." + it.site, p, i % heads);
        double sum = 0;
        for (int dropped = 0; dropped < 3; ++dropped)
          if (dropped != i)
            sum += std::abs(contracted(
                gradients_at(model, patterns.names(), dropped), changes));
        EXPECT_NEAR(
            values[static_cast<size_t>((i * 7 + p) * heads + i % heads)],
            sign * sum / 2,
            1e-4f * largest(values));
        ++compared;
      }
  }
  EXPECT_EQ(compared, 8u);

  // Effects are sizes, whatever the metric's sign is.
  for (const auto& metric : {logit_diff(4, 9), logit_diff(9, 4)})
    for (const auto direction : {Direction::denoise, Direction::noise}) {
      options.metric = metric;
      options.direction = direction;
      for (const auto& it : attribute(model, options))
        for (const float effect : it.sweep.effect())
          EXPECT_GE(effect, 0);
    }

  // Two pairs are the mean of each; a line of one prompt is that prompt.
  options = options_of({"q", "mlp_out"}, AttributionMethod::atp_star, {layer});
  const auto first = attribute(model, options);
  options.clean = Inputs::Rows{clean, clean};
  options.corrupt = Inputs::Rows{corrupt, corrupt};
  const auto twice = attribute(model, options);
  options = options_of({"q", "mlp_out"}, AttributionMethod::atp_star, {layer});
  options.steps = 300;
  const auto line = attribute(model, options);
  options.steps = 600;
  const auto finer = attribute(model, options);
  for (size_t s = 0; s < 2; ++s)
    for (size_t c = 0; c < 3; ++c) {
      const float size = largest(first[s].attributions());
      EXPECT_NEAR(
          twice[s].attributions()[c], first[s].attributions()[c], 1e-4f * size);
      EXPECT_NEAR(twice[s].sweep.spread[c], 0, 1e-4f * size);
      EXPECT_NEAR(
          line[s].attributions()[c],
          finer[s].attributions()[c],
          0.02f * largest(finer[s].attributions()));
    }
}

TEST(AtpStar, OnlySomeLayersAreTheSameAsOfAll) {
  const auto model = test::tiny_model();
  for (const auto method :
       {AttributionMethod::grad_drop, AttributionMethod::atp_star}) {
    auto options =
        options_of({"q", "z", "resid_pre"}, method, {layer, position});
    const auto all = attribute(model, options);
    options.layers = {2};
    const auto some = attribute(model, options);
    for (size_t s = 0; s < 3; ++s) {
      const auto whole = all[s].attributions(), last = some[s].attributions();
      ASSERT_EQ(last.size(), 7u);
      for (size_t p = 0; p < 7; ++p)
        EXPECT_NEAR(last[p], whole[14 + p], 1e-5f * largest(whole)) << p;
    }
  }
}

TEST(AtpStar, SizesAreComparedWithSizes) {
  Sweep exact, guess;
  exact.axes = {{layer, {0, 1, 2, 3}}};
  exact.clean = 1;
  guess = exact;
  exact.metric = {0, -1, 2, -3};  // of a corrupted run of 0
  guess.metric = {0.5f, 1, 2, 3};
  EXPECT_LT(compare(exact, guess).spearman, 0);
  const auto found = compare(exact, guess, 1, /*sizes=*/true);
  EXPECT_NEAR(found.spearman, 1, 1e-12);
  ASSERT_EQ(found.worst.size(), 1u);
  EXPECT_EQ(found.worst[0].cell, 0u);
  EXPECT_EQ(found.worst[0].approximate, 0.5f);
}

TEST(AtpStar, SaysWhatIsWrong) {
  const auto model = test::tiny_model();
  using enum AttributionMethod;
  EXPECT_SAYS(
      error_of(model, options_of({"z"}, qk_fix)), "none of the sites has any");
  auto options = options_of({"q"}, qk_fix);
  options.clean = std::vector<int>{5, 11, 3, 17, 29, 7, 13, 2};
  options.position_map = {
      {0, 0}, {1, 1}, {2, 2}, {4, 3}, {5, 4}, {6, 5}, {7, 6}};
  EXPECT_SAYS(error_of(model, options), "match position by position");
  options.method = grad_drop;
  EXPECT_EQ(error_of(model, options), "");
  const auto edited =
      model.with({{"layers.1.attn.scores", [](const mx::array& x) {
                     return mx::multiply(x, mx::array(0.5f));
                   }}});
  EXPECT_SAYS(
      error_of(edited, options_of({"q"}, atp_star)), "'layers.1.attn.scores'");
  EXPECT_EQ(error_of(edited, options_of({"q"}, grad_drop)), "");
  auto config = test::tiny_config();
  config.n_layers = 1;
  const InterpretableModel one(test::tiny_decoder(config));
  EXPECT_SAYS(error_of(one, options_of({"q"}, atp_star)), "this model has one");
  EXPECT_EQ(error_of(one, options_of({"q"}, qk_fix)), "");
}

class AtpStarFamilies : public testing::TestWithParam<std::string> {};

TEST_P(AtpStarFamilies, AgreesWithPatternsAndGradientsOfTheModel) {
  const auto model =
      InterpretableModel::load((test::families_root / GetParam()).string());
  const auto attending = layers_with(model, "attn.pattern");
  if (attending.empty()) {
    EXPECT_SAYS(
        error_of(model, options_of({"q"}, AttributionMethod::qk_fix)),
        "no site is called 'layers.0.q'");
  } else {
    const auto& layer =
        *model.decoder().layers[static_cast<size_t>(attending.front())];
    const bool together = layer.attention()->config().qk_norm ==
                          nn::AttentionConfig::QkNorm::together;
    if (together) {
      EXPECT_SAYS(
          error_of(
              model, options_of({"q", "rot_q"}, AttributionMethod::qk_fix)),
          "heads together");
    }
    for (const auto* site : {"q", "k"})
      expect_fixed(
          model, fmt::format("attn.{}{}", together ? "rot_" : "", site));
  }
  std::vector<std::string> sites;
  for (const auto* site : {"resid_pre", "attn_out", "mlp_out", "attn.v"})
    if (!layers_with(model, site).empty()) sites.emplace_back(site);
  ASSERT_GE(sites.size(), 2u);
  if (layers_of(model) > 1) expect_dropped(model, sites);
}

INSTANTIATE_TEST_SUITE_P(
    All,
    AtpStarFamilies,
    testing::ValuesIn(test::supported_variants()),
    [](const auto& tested) { return test::test_name(tested.param); });

}  // namespace
}  // namespace mlxterp
