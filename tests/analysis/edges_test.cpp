// Edges: against a plain computation in torch (tests/parity/make_edges.py), and
// what adds up in every family.

#include "mlxterp/analysis/edges.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "mlx/ops.h"
#include "mlxterp/analysis/attribute.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/said.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

// As in make_edges.py.
const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};

InterpretableModel family(const std::string& name) {
  return InterpretableModel::load((test::families_root / name).string());
}

EdgeOptions asked(EdgeMethod method = EdgeMethod::eap) {
  return {
      .clean = clean,
      .corrupt = corrupt,
      .metric = logit_diff(4, 9),
      .method = method};
}

// [source, destination], 0 where there is no edge.
mx::array table(const EdgeScores& found) {
  auto values = found.scores;
  for (auto& value : values)
    if (std::isnan(value)) value = 0;
  return mx::array(
      values.data(),
      {static_cast<int>(found.sources.size()),
       static_cast<int>(found.destinations.size())});
}

std::string error_of(
    const InterpretableModel& model, const EdgeOptions& options) {
  return test::error_of([&] { edges(model, options); });
}

class EdgesOracle : public testing::TestWithParam<std::string> {};

TEST_P(EdgesOracle, AreThoseOfAPlainComputation) {
  const auto file = Safetensors::open(
      MLXTERP_SOURCE_DIR "/tests/analysis/fixtures/edges.safetensors");
  const auto name = GetParam();
  const bool ungrouped = name.ends_with("_ungrouped");
  const auto model = family(name.substr(0, name.find('_')));
  const std::map<std::string, EdgeMethod> methods = {
      {"eap", EdgeMethod::eap},
      {"eap_ig", EdgeMethod::eap_ig},
      {"eap_ig_activations", EdgeMethod::eap_ig_activations},
      {"clean_corrupted", EdgeMethod::clean_corrupted},
      {"exact", EdgeMethod::exact}};
  size_t compared = 0;
  for (const auto& tensor : file.tensors()) {
    if (!tensor.name.starts_with(name + ".")) continue;
    auto word = tensor.name.substr(name.size() + 1);
    auto options = asked();
    if (word.ends_with(".noise")) options.direction = Direction::noise;
    word.resize(word.find('.'));
    if (!methods.contains(word)) continue;
    options.method = methods.at(word);
    options.ungrouped = ungrouped;
    const auto found = edges(model, options);
    const auto expected = file.read(tensor);
    test::expect_close(
        table(found), expected, 1e-5, expected.size(), tensor.name);
    EXPECT_GT(test::max_magnitude(expected), 0.1);
    ++compared;
  }
  EXPECT_EQ(compared, methods.size() + 2);
}

EdgeOptions routes() {
  return {.clean = clean, .method = EdgeMethod::ifr};
}

TEST_P(EdgesOracle, InformationFlowRoutesToo) {
  const auto file = Safetensors::open(
      MLXTERP_SOURCE_DIR "/tests/analysis/fixtures/edges.safetensors");
  const auto name = GetParam();
  const auto model = family(name.substr(0, name.find('_')));
  auto options = routes();
  options.ungrouped = name.ends_with("_ungrouped");
  const auto tensor =
      std::ranges::find(file.tensors(), name + ".ifr.clean", &TensorInfo::name);
  ASSERT_NE(tensor, file.tensors().end());
  const auto expected = file.read(*tensor);
  test::expect_close(
      table(edges(model, options)), expected, 1e-5, expected.size(), name);
  EXPECT_GT(test::max_magnitude(expected), 0.1);
}

INSTANTIATE_TEST_SUITE_P(
    ,
    EdgesOracle,
    testing::Values("llama-gqa", "llama-gqa_ungrouped", "llama-mha", "gpt2"),
    [](const auto& it) { return test::test_name(it.param); });

// What leaves the embedding, along the line to the other run's, and what
// reaches the logits: both are the difference of the two runs.
TEST(Edges, AddUpToTheDifferenceOfTheRuns) {
  for (const auto* name : {"llama-gqa", "gpt2", "gemma2", "falcon-one-norm"}) {
    const auto model = family(name);
    auto options = asked(EdgeMethod::eap_ig);
    options.rule = LineRule::mid;
    options.steps = 50;
    const auto found = edges(model, options);
    const size_t to = found.destinations.size();
    double leaves = 0, reaches = 0;
    for (size_t d = 0; d < to; ++d)
      leaves += static_cast<double>(found.scores[d]);
    for (size_t s = 0; s < found.sources.size(); ++s)
      reaches += static_cast<double>(found.scores[s * to + to - 1]);
    const double difference =
        static_cast<double>(found.clean) - static_cast<double>(found.corrupt);
    std::printf(
        "%s: %.6f leaves, %.6f reaches, of %.6f\n",
        name,
        leaves,
        reaches,
        difference);
    EXPECT_NEAR(leaves, difference, 2e-3 * std::abs(difference)) << name;
  }
}

// The edges out of one layer's mixer or MLP, along the line to its other
// output: what the run does with all of that output.
TEST(Edges, OfALayersOutputsAddUpToWhatItDoes) {
  for (const auto* name : {"llama-gqa", "gpt2", "gemma2", "falcon-one-norm"}) {
    const auto model = family(name);
    auto options = asked(EdgeMethod::eap_ig_activations);
    options.rule = LineRule::mid;
    options.steps = 50;
    const auto found = edges(model, options);
    const size_t to = found.destinations.size();
    for (const char kind : {'a', 'm'}) {
      double sum = 0;
      for (size_t i = 0; i < found.scores.size(); ++i) {
        const auto& source = found.sources[i / to];
        if (source.layer == 0 && source.name[0] == kind &&
            !std::isnan(found.scores[i]))
          sum += static_cast<double>(found.scores[i]);
      }
      const std::string site =
          kind == 'a' ? "layers.0.attn_out" : "layers.0.mlp_out";
      const auto put = model.run(clean, {.save = {site}})[site];
      const auto after = measure(
          model,
          options.metric,
          model.run(
              corrupt,
              {.save = {"logits"},
               .edits = {{site, [&](const mx::array&, const SiteView&) {
                            return put;
                          }}}})["logits"]);
      const double change =
          static_cast<double>(after) - static_cast<double>(found.corrupt);
      std::printf("%s %c: %.6f of %.6f\n", name, kind, sum, change);
      EXPECT_NEAR(sum, change, 2e-3 * std::max(0.1, std::abs(change)))
          << name << kind;
    }
  }
}

class EdgesFamilies : public testing::TestWithParam<std::string> {};

// The edges that leave a part add up to the part's own attribution, which is
// tested against finite differences: no reader is missing, none counts twice.
TEST_P(EdgesFamilies, OfEachPartAddUpToItsAttribution) {
  const auto model = family(GetParam());
  const auto found = edges(model, asked());
  const auto& layers = model.decoder().layers;
  const int n = static_cast<int>(layers.size());
  std::vector<double> input(1), mixers(layers.size()), mlps(layers.size());
  const size_t to = found.destinations.size();
  for (size_t s = 0; s < found.sources.size(); ++s) {
    const auto& source = found.sources[s];
    if (source.name[0] == 'p') continue;
    const auto layer = static_cast<size_t>(std::max(source.layer, 0));
    auto& sum = source.name[0] == 'i'   ? input[0]
                : source.name[0] == 'a' ? mixers[layer]
                                        : mlps[layer];
    for (size_t d = 0; d < to; ++d)
      if (!std::isnan(found.scores[s * to + d]))
        sum += static_cast<double>(found.scores[s * to + d]);
  }
  double worst = 0, largest = 0;
  size_t compared = 0;
  using Sums = std::vector<std::pair<std::string, std::vector<double>>>;
  const auto compare = [&](const Sums& sums, const std::vector<int>& which) {
    std::vector<std::string> sites;
    for (const auto& [site, own] : sums)
      sites.push_back(site);
    if (which.empty() || sites.empty()) return;
    const auto all = attribute(
        model,
        {.clean = clean,
         .corrupt = corrupt,
         .sites = sites,
         .by = {Axis::layer},
         .metric = logit_diff(4, 9),
         .layers = which});
    for (size_t s = 0; s < sites.size(); ++s) {
      const auto values = all[s].attributions();
      ASSERT_EQ(values.size(), which.size());
      for (size_t i = 0; i < which.size(); ++i, ++compared) {
        const double error = std::abs(
            sums[s].second[static_cast<size_t>(which[i])] -
            static_cast<double>(values[i]));
        if (!(error <= worst)) worst = error;
        largest = std::max(largest, std::abs(static_cast<double>(values[i])));
      }
    }
  };
  std::vector<int> all, feeding;
  int biased = 0;
  for (int i = 0; i < n; ++i) {
    // A bias that a norm behind it divides is no head's.
    const auto& layer = *layers[static_cast<size_t>(i)];
    if (layer.ln1_post && layer.attention() && layer.attention()->o_proj.bias)
      ++biased;
    else
      all.push_back(i);
    if (layers[static_cast<size_t>(i)]->feeds_forward()) feeding.push_back(i);
  }
  compare({{"resid_pre", input}}, {0});
  if (all == feeding) {
    compare({{"attn_out", mixers}, {"mlp_out", mlps}}, all);
  } else {
    compare({{"attn_out", mixers}}, all);
    compare({{"mlp_out", mlps}}, feeding);
  }
  std::printf(
      "%s: %zu edges, %zu sums to %.2g, largest error %.2g\n",
      GetParam().c_str(),
      found.edges(),
      compared,
      largest,
      worst);
  EXPECT_EQ(compared, 1 + all.size() + feeding.size());
  const bool odd = GetParam() == "olmo3-thetas" || GetParam() == "gemma4-dense";
  EXPECT_EQ(biased > 0, odd);
  EXPECT_LE(worst, 1e-5 * std::max(1.0, largest));
  EXPECT_GT(largest, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(
    ,
    EdgesFamilies,
    testing::ValuesIn(test::supported_variants()),
    [](const auto& it) { return test::test_name(it.param); });

TEST(Edges, NamesAndCountsThem) {
  const auto model = test::tiny_model();  // 3 layers, 6 heads, 2 kv heads
  auto options = asked();
  const auto found = edges(model, options);
  EXPECT_EQ(found.sources.size(), 1 + 3 * 7u);
  EXPECT_EQ(found.destinations.size(), 3 * 11 + 1u);
  EXPECT_EQ(found.sources[1 + 7 + 2].name, "a1.h2");
  EXPECT_EQ(found.sources[14].name, "m1");
  EXPECT_EQ(found.destinations[11 + 2].name, "a1.h2<q>");
  EXPECT_EQ(found.destinations[11 + 7].name, "a1.kv1<k>");
  EXPECT_EQ(found.destinations[11 + 9].name, "a1.kv1<v>");
  EXPECT_EQ(found.destinations[11 + 10].name, "m1");
  EXPECT_EQ(found.destinations.back().name, "logits");
  EXPECT_EQ(found.destinations[11].before, 8);
  EXPECT_EQ(found.destinations[21].before, 14);
  const auto edge = [&](size_t s, size_t d) {
    return found.scores[s * found.destinations.size() + d];
  };
  EXPECT_TRUE(std::isnan(edge(8, 11)));
  EXPECT_FALSE(std::isnan(edge(7, 11)));
  const auto strongest = found.strongest(3);
  ASSERT_EQ(strongest.size(), 3u);
  EXPECT_GE(
      std::abs(found.scores[strongest[0]]),
      std::abs(found.scores[strongest[1]]));
  EXPECT_EQ(found.strongest(100'000).size(), found.edges());
  options.ungrouped = true;
  const auto apart = edges(model, options);
  EXPECT_EQ(apart.destinations.size(), 3 * 19 + 1u);
  EXPECT_EQ(apart.destinations[19 + 6 + 3].name, "a1.h3<k>");
}

TEST(Edges, PositionsAddUpAndPairsAreAveraged) {
  const auto model = test::tiny_model();
  auto options = asked();
  const auto whole = edges(model, options);
  options.by_position = true;
  const auto each = edges(model, options);
  ASSERT_EQ(each.positions, 7);
  const size_t cells = whole.scores.size();
  ASSERT_EQ(each.scores.size(), 7 * cells);
  double worst = 0;
  for (size_t c = 0; c < cells; ++c) {
    double sum = 0;
    for (size_t p = 0; p < 7; ++p)
      sum += static_cast<double>(each.scores[p * cells + c]);
    if (std::isnan(whole.scores[c]))
      EXPECT_TRUE(std::isnan(sum));
    else
      worst =
          std::max(worst, std::abs(sum - static_cast<double>(whole.scores[c])));
  }
  EXPECT_LT(worst, 1e-5);
  // What both runs share does nothing.
  EXPECT_EQ(each.scores[2 * cells], 0);

  // Of one pair and the same turned round.
  options = asked(EdgeMethod::clean_corrupted);
  options.clean = Inputs::Rows{clean, corrupt};
  options.corrupt = Inputs::Rows{corrupt, clean};
  const auto both = edges(model, options);
  const auto strongest = both.spread;
  EXPECT_EQ(both.pairs, 2u);
  EXPECT_NEAR(both.clean, both.corrupt, 1e-5);
  for (const auto score : both.scores)
    EXPECT_TRUE(std::isnan(score) || std::abs(score) < 1e-5f) << score;
  EXPECT_GT(
      *std::ranges::max_element(
          strongest, {}, [](float x) { return std::isnan(x) ? -1.0f : x; }),
      1e-3);
  // Two runs that are one.
  options = asked();
  options.corrupt = clean;
  for (const auto score : edges(model, options).scores)
    EXPECT_TRUE(score == 0 || std::isnan(score));
}

TEST(Edges, ASampleSaysHowFarTheEstimateIsOff) {
  const auto model = test::tiny_model();
  const auto exact = edges(model, asked(EdgeMethod::exact));
  auto options = asked();
  options.sample = 0.4;
  options.seed = 3;
  const auto found = edges(model, options);
  const size_t to = found.destinations.size();
  const auto distance = [&](size_t i) {
    return found.destinations[i % to].layer - found.sources[i / to].layer;
  };
  std::map<int, size_t> all;
  std::map<int, std::vector<double>> errors;
  for (size_t i = 0; i < found.scores.size(); ++i) {
    if (!std::isnan(found.scores[i])) ++all[distance(i)];
    if (std::isnan(found.exact[i])) continue;
    EXPECT_NEAR(found.exact[i], exact.scores[i], 1e-5);
    errors[distance(i)].push_back(std::abs(
        static_cast<double>(found.exact[i]) -
        static_cast<double>(found.scores[i])));
  }
  ASSERT_EQ(all.size(), 5u);  // m0 to m0's own layer, ..., the input to logits
  ASSERT_EQ(found.errors.size(), all.size());
  for (const auto& it : found.errors) {
    auto own = errors.at(it.distance);
    const auto n = all.at(it.distance);
    EXPECT_EQ(it.edges, own.size());
    EXPECT_EQ(
        it.edges,
        std::min(
            n,
            std::max<size_t>(
                9,
                static_cast<size_t>(std::ceil(0.4 * static_cast<double>(n))))));
    std::ranges::sort(own);
    double square = 0;
    for (const double error : own)
      square += error * error / static_cast<double>(own.size());
    EXPECT_NEAR(it.rms, std::sqrt(square), 1e-6);
    EXPECT_LE(std::abs(it.mean), it.rms + 1e-9);
    const auto at = [&](double q) {
      const auto rank = static_cast<size_t>(
          std::ceil(q * static_cast<double>(own.size() + 1)));
      return own[std::min(rank, own.size()) - 1];
    };
    EXPECT_NEAR(it.within_68, at(0.68), 1e-6);
    EXPECT_NEAR(it.within_90, at(0.9), 1e-6);
  }
  // Other draws, other edges; their bands hold for what was not drawn.
  double within_68 = 0, within_90 = 0, held_68 = 0, held_90 = 0, others = 0;
  constexpr int draws = 8;
  for (int seed = 0; seed < draws; ++seed) {
    options.seed = static_cast<uint64_t>(seed);
    const auto drawn = edges(model, options);
    held_68 += drawn.coverage.within_68 / draws;
    held_90 += drawn.coverage.within_90 / draws;
    EXPECT_GE(drawn.coverage.strong_90, 0);
    std::map<int, EdgeErrors> bands;
    for (const auto& it : drawn.errors)
      bands[it.distance] = it;
    for (size_t i = 0; i < drawn.scores.size(); ++i) {
      if (std::isnan(drawn.scores[i]) || !std::isnan(drawn.exact[i])) continue;
      const double error = std::abs(
          static_cast<double>(exact.scores[i]) -
          static_cast<double>(drawn.scores[i]));
      const auto& band = bands.at(distance(i));
      if (error <= band.within_68) ++within_68;
      if (error <= band.within_90) ++within_90;
      ++others;
    }
  }
  std::printf(
      "%.0f others: %.3f and %.3f within, held out %.3f and %.3f\n",
      others,
      within_68 / others,
      within_90 / others,
      held_68,
      held_90);
  EXPECT_NEAR(within_68 / others, 0.68, 0.07);
  EXPECT_NEAR(within_90 / others, 0.9, 0.05);
  EXPECT_NEAR(held_68, 0.7, 0.07);
  EXPECT_NEAR(held_90, 0.92, 0.05);
}

// Every family runs, and no destination is left out: at each position its
// shares add up to 1.
TEST_P(EdgesFamilies, SharesOfAStreamAddUpToOne) {
  const auto model = family(GetParam());
  auto options = routes();
  options.by_position = true;
  const auto found = edges(model, options);
  const auto to = found.destinations.size(), from = found.sources.size();
  ASSERT_EQ(found.positions, static_cast<int>(clean.size()));
  std::vector<double> sums(clean.size() * to);
  for (size_t i = 0; i < found.scores.size(); ++i) {
    if (std::isnan(found.scores[i])) continue;
    EXPECT_GE(found.scores[i], 0);
    sums[i / to / from * to + i % to] += static_cast<double>(found.scores[i]);
  }
  for (const double sum : sums)
    EXPECT_NEAR(sum, 1, 1e-5);
  // Before layer 0 stands the embedding alone.
  EXPECT_EQ(found.scores[0], 1);
}

// An edge is a plain pass in which one part reads the stream with one
// difference, in every family: of an attention's parts, what a pass makes that
// gives the whole mixer that stream is put in place of their own.
TEST_P(EdgesFamilies, ExactAreOnePassAnEdge) {
  const auto model = family(GetParam());
  const auto& layers = model.decoder().layers;
  const int last = static_cast<int>(layers.size()) - 1;
  const auto options = asked(EdgeMethod::exact);
  if (std::ranges::any_of(layers, [](const auto& it) {
        return it->attention() && it->attention()->config().kv_layer >= 0;
      })) {
    EXPECT_SAYS(
        error_of(model, options), "keys and values in common with other");
    return;
  }
  const auto found = edges(model, options);
  const auto to = found.destinations.size();
  const auto& layer = *layers.back();
  const auto metric = logit_diff(4, 9);
  const auto at = [&](const std::string& site) {
    return "layers." + std::to_string(last) + "." + site;
  };
  const auto has = [&](const std::string& site) {
    return model.sites().contains(site);
  };
  const auto metric_of = [&](const Edit& edit) {
    return measure(
        model,
        metric,
        model.run(corrupt, {.save = {"logits"}, .edits = {edit}})["logits"]);
  };
  const float before = measure(
      model, metric, model.run(corrupt, {.save = {"logits"}})["logits"]);
  const std::string mixer_input =
      layer.ln1 ? at("ln1.input")
                : at(std::string(layer.mixer->name()) + ".input");
  const bool feeds_alone =
      layer.feeds_forward() && layer.ln2 && !layer.ln_mlp_post;
  double worst = 0, largest = 0;
  size_t compared = 0;
  for (size_t s = 0; s < found.sources.size(); ++s) {
    const auto& name = found.sources[s].name;
    if (name != "input" && name != "m0") continue;
    const std::string site =
        name == "m0" ? "layers.0.mlp_out" : "layers.0.resid_pre";
    auto change = mx::subtract(
        model.run(clean, {.save = {site}})[site],
        model.run(corrupt, {.save = {site}})[site]);
    for (int i = 0; i < last; ++i)
      if (const auto& scalar = layers[static_cast<size_t>(i)]->layer_scalar)
        change = mx::multiply(change, *scalar);
    const auto add = [&](const mx::array& x, const SiteView&) {
      return mx::add(x, change);
    };
    for (size_t d = 0; d < to; ++d) {
      const auto& it = found.destinations[d];
      if (it.layer < last || s >= static_cast<size_t>(it.before)) continue;
      std::optional<float> after;
      const auto input = it.name.find('<');
      if (it.name == "logits") {
        const auto scalar = layer.layer_scalar.value_or(mx::array(1.0f));
        after = metric_of(
            {"ln_final.input", [&](const mx::array& x, const SiteView&) {
               return mx::add(x, mx::multiply(change, scalar));
             }});
      } else if (it.name[0] == 'm') {
        if (feeds_alone) after = metric_of({at("ln2.input"), add});
      } else if (it.name[0] == 'a' && input == std::string::npos) {
        if (has(mixer_input)) after = metric_of({mixer_input, add});
      } else if (it.name[0] == 'a' && has(mixer_input)) {
        const char kind = it.name[input + 1];
        const auto projected =
            at(std::string("attn.") +
               (kind == 'g' ? "gate" : std::string(1, kind)) + "_proj.output");
        const auto made = model.run(
            corrupt,
            {.save = {projected}, .edits = {{mixer_input, add}}})[projected];
        const auto stem = it.name.substr(
            0, it.name.find_first_of("0123456789", it.name.find('.')));
        int heads = 0;
        for (const auto& other : found.destinations)
          if (other.layer == it.layer && other.name.starts_with(stem) &&
              other.name.ends_with(it.name.substr(input)))
            ++heads;
        const int head = std::stoi(it.name.substr(stem.size()));
        const int width = made.shape(2) / heads;
        const auto put = [&](const mx::array& x, const SiteView&) {
          auto from = mx::Shape{0, 0, head * width};
          auto end = x.shape();
          end[2] = (head + 1) * width;
          return mx::slice_update(x, mx::slice(made, from, end), from, end);
        };
        after = metric_of({projected, put});
      }
      if (!after) continue;
      const double wanted =
          static_cast<double>(*after) - static_cast<double>(before);
      const double error =
          std::abs(static_cast<double>(found.scores[s * to + d]) - wanted);
      if (!(error <= worst)) worst = error;
      largest = std::max(largest, std::abs(wanted));
      ++compared;
    }
  }
  std::printf(
      "%s: %zu edges, largest %.2g, largest error %.2g\n",
      GetParam().c_str(),
      compared,
      largest,
      worst);
  EXPECT_GE(compared, 2u);
  EXPECT_LE(worst, 1e-5 * std::max(1.0, largest));
  EXPECT_GT(largest, 1e-4);
}

TEST(Edges, RefuseWhatHasNoMeaning) {
  const auto model = test::tiny_model();
  auto options = asked();
  options.metric = rank(4);
  EXPECT_SAYS(error_of(model, options), "a rank has no gradient");
  options = asked();
  options.corrupt = {5, 11};
  EXPECT_SAYS(
      error_of(model, options),
      "pair 0: the clean prompt has 7 tokens, the corrupted one 2");
  options = asked();
  options.corrupt = Inputs::Rows{corrupt, corrupt};
  EXPECT_SAYS(error_of(model, options), "1 clean and 2 corrupted prompts");
  options = asked(EdgeMethod::eap_ig);
  options.steps = 0;
  EXPECT_SAYS(error_of(model, options), "steps is 0");
  options = routes();
  options.metric = logit(4);
  EXPECT_SAYS(error_of(model, options), "leave out the metric, ");
  options = routes();
  options.corrupt = corrupt;
  EXPECT_SAYS(error_of(model, options), "leave out the corrupted prompts");
  options = routes();
  options.sample = 0.5;
  EXPECT_SAYS(error_of(model, options), "leave out sample");
  options = routes();
  options.clean = Inputs::Rows();
  EXPECT_SAYS(error_of(model, options), "no prompt");
  options = asked();
  options.sample = 1.5;
  EXPECT_SAYS(error_of(model, options), "sample is 1.5");
  options = asked(EdgeMethod::exact);
  options.sample = 0.5;
  EXPECT_SAYS(error_of(model, options), "leave out the method exact");
  EXPECT_SAYS(
      error_of(family("gemma4"), asked(EdgeMethod::exact)),
      "keys and values in common with other layers");
  options = asked();
  options.clean = options.corrupt = Inputs::Rows{clean, {5, 11, 3}};
  options.by_position = true;
  EXPECT_SAYS(error_of(model, options), "pair 1 has 3 tokens");
  EXPECT_SAYS(
      error_of(model.with({{"layers.0.mlp_out", zero_out()}}), asked()),
      "the model has edits");
  options = asked();
  options.metric = custom("odd", [](const mx::array& logits) {
    return mx::divide(mx::sum(logits, -1), mx::array(0.0f));
  });
  EXPECT_SAYS(error_of(model, options), "[edges] the score of");
}

}  // namespace
}  // namespace mlxterp
