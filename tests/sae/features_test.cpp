// What features say: of a prompt, of a text, of the logits, and as directions.

#include "mlxterp/sae/features.h"

#include <gtest/gtest.h>

#include <fstream>

#include "mlx/ops.h"
#include "mlxterp/analysis/logit_attribution.h"
#include "mlxterp/core/error.h"
#include "tests/cli/worded_checkpoint.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/sae/tiny_sae.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

const std::vector<int> prompt = {5, 11, 3, 29, 7, 13, 2};

std::vector<float> floats(const mx::array& x) {
  auto flat = mx::contiguous(mx::astype(x, mx::float32));
  flat.eval();
  return {flat.data<float>(), flat.data<float>() + flat.size()};
}

TEST(ReadFeatures, AreTheLargestOfEachPosition) {
  const auto model = test::tiny_model();
  auto sae = test::random_sae(0, 24, 32);
  sae.source.site_in = sae.source.site_out = "layers.1.resid_post";
  const auto x = model.run(
      prompt, {.save = {"layers.1.resid_post"}})["layers.1.resid_post"];
  const auto acts = floats(encode(sae, x));
  const auto pre = floats(pre_activations(sae, x));
  const auto below = [&](size_t p, float most) {
    return static_cast<int>(std::count_if(
        pre.begin() + static_cast<long>(p) * 32,
        pre.begin() + static_cast<long>(p + 1) * 32,
        [&](float it) { return it < most; }));
  };
  const auto reading = read_features(model, sae, prompt, {.top = 3});
  EXPECT_EQ(reading.ids, prompt);
  EXPECT_EQ(reading.d_sae, 32);
  ASSERT_EQ(reading.positions.size(), prompt.size());
  size_t compared = 0;
  for (size_t p = 0; p < prompt.size(); ++p) {
    std::vector<std::pair<float, int>> all;
    for (int f = 0; f < 32; ++f)
      if (const float a = acts[p * 32 + static_cast<size_t>(f)]; a != 0)
        all.emplace_back(-a, f);
    std::ranges::sort(all);
    const auto& position = reading.positions[p];
    // Of two passes: what is 0 in one may be a rounding error in the other, and
    // equal ones may change places.
    const auto above = [&](float least) {
      return static_cast<int>(std::ranges::count_if(
          all, [&](const auto& it) { return -it.first > least; }));
    };
    EXPECT_GE(position.active, above(1e-5f));
    EXPECT_LE(position.active, 32 - below(p, -1e-5f));
    ASSERT_GE(position.top.size(), std::min<size_t>(3, above(1e-5f)));
    ASSERT_LE(position.top.size(), 3u);
    for (size_t i = 0; i < position.top.size(); ++i, ++compared) {
      const auto f = static_cast<size_t>(position.top[i].feature);
      EXPECT_NEAR(position.top[i].value, acts[p * 32 + f], 1e-5);
      const float at = i < all.size() ? -all[i].first : 0;
      EXPECT_NEAR(position.top[i].value, at, 1e-5);
    }
  }
  EXPECT_GT(compared, 10u);
  ASSERT_TRUE(reading.fit);
  EXPECT_EQ(reading.fit->rows, prompt.size() - 1);

  // Named ones, without the others being computed, and in the order given.
  const auto named =
      read_features(model, sae, prompt, {.features = {9, 2, 31}, .tokens = 2});
  for (size_t p = 0; p < prompt.size(); ++p) {
    const auto& position = named.positions[p];
    EXPECT_EQ(position.active, -1);
    ASSERT_EQ(position.top.size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      const int f = std::vector{9, 2, 31}[i];
      EXPECT_EQ(position.top[i].feature, f);
      EXPECT_NEAR(
          position.top[i].value, acts[p * 32 + static_cast<size_t>(f)], 1e-5);
    }
  }
  EXPECT_FALSE(named.fit);
  ASSERT_EQ(named.logits.size(), 3u);
  EXPECT_EQ(named.logits[0].promoted.size(), 2u);

  // Of a handle that has it attached, what its edits leave.
  const auto edited =
      attach_sae(model, sae, {.mode = AttachOptions::Mode::replace_with_error})
          .with(
              {{"layers.1.resid_post.sae.acts",
                on_neurons({9}, replace_with(7.0f))}});
  const auto left = read_features(edited, sae, prompt, {.top = 1});
  for (const auto& position : left.positions) {
    ASSERT_EQ(position.top.size(), 1u);
    EXPECT_EQ(position.top[0].feature, 9);
    EXPECT_EQ(position.top[0].value, 7.0f);
  }
  EXPECT_THROW(read_features(model, sae, prompt, {.top = 0}), Error);
  EXPECT_THROW(read_features(model, sae, prompt, {.features = {32}}), Error);
  EXPECT_THROW(read_features(model, sae, Inputs::Rows{prompt, prompt}), Error);
}

struct Case {
  std::string variant, site;
};

class FeatureLogit : public ::testing::TestWithParam<Case> {};

// The features, the bias and the error are what the site adds to a logit, which
// the decomposition of the whole model knows by another way.
TEST_P(FeatureLogit, AddUpToTheSites) {
  const auto& [variant, site] = GetParam();
  const auto model =
      InterpretableModel::load((test::families_root / variant).string());
  const auto run = model.run(prompt, {.save = {site, "ln_final.scale"}});
  const int d = static_cast<int>(run[site].size() / prompt.size());
  const auto sae = test::random_sae(2, d, 48);
  const SaeSites sites = {site, site};
  const auto metric = logit_diff(4, 9);
  const auto found = feature_attribution(model, sae, prompt, metric, sites);
  ASSERT_FALSE(found.parts.empty());
  double sum = static_cast<double>(found.bias) + found.error;
  for (const auto& part : found.parts)
    sum += part.value;
  EXPECT_NEAR(sum, found.total, 1e-4 * (1 + std::abs(sum)));

  const auto whole =
      logit_attribution(model, {.prompts = prompt, .metric = metric});
  const auto& at = model.sites()[model.sites().find(site)];
  double wanted = 0;
  if (at.relative() == "resid_post" || at.relative() == "resid_pre") {
    const size_t layer =
        static_cast<size_t>(at.layer) + (at.relative() == "resid_post" ? 1 : 0);
    for (const auto& part : whole.parts) {
      const bool before = part.layer < static_cast<int>(layer) &&
                          part.kind != LogitPart::Kind::ln_final_bias &&
                          part.kind != LogitPart::Kind::unembed_bias;
      if (before) wanted += part.value;
    }
  } else {
    for (const auto& part : whole.parts)
      if (part.layer == at.layer &&
          (at.relative() == "attn.z" ? part.name().ends_with("attn_out")
                                     : part.name() == at.name))
        wanted += part.value;
  }
  printf(
      "%-12s %-22s %zu features, %.6f, wanted %.6f\n",
      variant.c_str(),
      site.c_str(),
      found.parts.size(),
      static_cast<double>(found.total),
      wanted);
  EXPECT_NEAR(found.total, wanted, 2e-4 * (1 + std::abs(wanted)));

  // And a feature's logits are those parts without activation and divisor.
  const auto& part = found.parts[0];
  const auto vocab = model.decoder().config().vocab;
  const auto logits =
      feature_logits(model, sae, {part.feature}, vocab, sites).at(0);
  ASSERT_EQ(logits.promoted.size(), static_cast<size_t>(vocab));
  double by_token[2] = {};
  float last = std::numeric_limits<float>::infinity();
  for (const auto& token : logits.promoted) {
    EXPECT_LE(token.logit, last);
    last = token.logit;
    if (token.id == 4) by_token[0] = token.logit;
    if (token.id == 9) by_token[1] = token.logit;
  }
  EXPECT_EQ(logits.suppressed.front().id, logits.promoted.back().id);
  const auto scale = floats(run["ln_final.scale"]).back();
  EXPECT_NEAR(
      part.activation * (by_token[0] - by_token[1]) / scale,
      part.value,
      1e-4 * (1 + std::abs(part.value)));
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    FeatureLogit,
    ::testing::Values(
        Case{"llama-gqa", "layers.0.resid_post"},
        Case{"gpt2", "layers.1.resid_pre"},
        Case{"gemma2", "layers.1.mlp_out"},
        Case{"gpt_neox", "layers.0.attn_out"},
        Case{"granite", "layers.1.resid_post"},
        Case{"cohere", "layers.0.resid_post"},
        Case{"mpt", "layers.0.attn.z"}),
    [](const auto& tested) { return test::test_name(tested.param.variant); });

TEST(FeatureLogits, AreRefusedWhereNothingIsAdded) {
  const auto model = test::tiny_model();
  const auto sae = test::random_sae(0, 24, 32);
  const SaeSites sites = {"layers.1.ln2.output", "layers.1.ln2.output"};
  EXPECT_THROW(feature_logits(model, sae, {0}, 5, sites), Error);
  EXPECT_THROW(feature_attribution(model, sae, prompt, logit(4), sites), Error);
  const SaeSites stream = {"layers.1.resid_post", "layers.1.resid_post"};
  EXPECT_THROW(feature_logits(model, sae, {32}, 5, stream), Error);
  EXPECT_THROW(
      feature_attribution(model, sae, prompt, probability(4), stream), Error);
  EXPECT_THROW((void)feature_direction(model, sae, 0, sites), Error);
  EXPECT_THROW((void)feature_direction(model, sae, 32, stream), Error);
  const SaeSites first = {"layers.0.resid_pre", "layers.0.resid_pre"};
  EXPECT_THROW((void)feature_direction(model, sae, 0, first), Error);
  // It is read all the same, without tokens.
  const auto reading =
      read_features(model, sae, prompt, {.site = "layers.1.ln2.output"});
  EXPECT_TRUE(reading.logits.empty());
}

TEST(FeatureDirection, SteersAsTheFeatureWould) {
  const auto plain = test::tiny_model();
  const auto sae = test::random_sae(0, 24, 32);
  for (const std::string site :
       {"layers.1.resid_post", "layers.2.resid_pre", "layers.1.mlp_out"}) {
    const auto model = attach_sae(
        plain,
        sae,
        {.mode = AttachOptions::Mode::replace_with_error, .site = site});
    auto vector = feature_direction(plain, sae, 5, {site, site});
    ASSERT_EQ(vector.layers.at(0).layer, 1);
    EXPECT_NO_THROW(vector.check());
    EXPECT_NO_THROW(vector.check_fits(plain));
    const auto more = [](const mx::array& x) {
      return mx::add(x, mx::array(2.5f));
    };
    const auto wanted = model.run(
        prompt,
        {.save = {"logits"},
         .edits = {{site + ".sae.acts", on_neurons({5}, more)}}})["logits"];
    const auto steered = plain.run(
        prompt,
        {.save = {"logits"},
         .edits = {
             {"layers.1.resid_post",
              add_vector(mx::multiply(
                  vector.at(1).direction, mx::array(2.5f)))}}})["logits"];
    test::expect_close(steered, wanted, 1e-4, wanted.size(), site);
    // In strengths, through steer().
    vector = with_norms(vector, plain, prompt);
    EXPECT_EQ(steer(plain, vector, {.strength = 0.5f}).edits.size(), 1u);
  }
}

TEST(FeatureContexts, AreTheBestOfAText) {
  const testing::TempFolder folder;
  const auto model =
      InterpretableModel::load(test::worded_checkpoint(folder).string());
  std::string text;
  for (int i = 0; i < 60; ++i)
    text +=
        fmt::format("line {} says {} things of {}.\n", i, i * i % 17, i % 7);
  const auto file = folder.path() / "text.txt";
  std::ofstream(file) << text;
  const auto sae = test::random_sae(2, 24, 32);
  const std::string site = "layers.1.resid_post";
  const std::vector<int> features = {3, 17};
  const auto found = feature_contexts(
      model,
      sae,
      file,
      {.features = features,
       .top = 3,
       .before = 2,
       .after = 1,
       .length = 16,
       .batch_size = 2,
       .site = site});

  // By hand: windows of 16 tokens, BOS in front of each.
  const auto ids = model.tokenizer().encode(text);
  const auto bare = model.tokenizer().encode(text, {.add_special = false});
  const bool bos = ids.size() > bare.size();
  std::vector<std::vector<int>> windows;
  for (size_t at = 0; at < bare.size();) {
    std::vector<int> window;
    if (bos) window.push_back(ids.front());
    while (window.size() < 16 && at < bare.size())
      window.push_back(bare[at++]);
    windows.push_back(window);
  }
  EXPECT_EQ(found.windows, static_cast<int64_t>(windows.size()));
  ASSERT_EQ(found.features.size(), 2u);
  size_t compared = 0;
  for (size_t i = 0; i < 2; ++i) {
    struct Best {
      float value;
      size_t window, at;
    };
    std::vector<Best> all;
    int64_t active = 0;
    for (size_t w = 0; w < windows.size(); ++w) {
      const auto x = model.run(windows[w], {.save = {site}})[site];
      const auto acts =
          floats(mx::take(encode(sae, x), mx::array({features[i]}), -1));
      Best best{0, w, 0};
      for (size_t p = windows[w].size() > 1 ? 1 : 0; p < acts.size(); ++p) {
        active += acts[p] != 0;
        if (acts[p] > best.value) best = {acts[p], w, p};
      }
      if (best.value > 0) all.push_back(best);
    }
    std::ranges::stable_sort(all, std::greater<>(), &Best::value);
    const auto& of = found.features[i];
    EXPECT_EQ(of.feature, features[i]);
    EXPECT_EQ(of.active, active);
    ASSERT_EQ(of.top.size(), std::min<size_t>(3, all.size()));
    for (size_t k = 0; k < of.top.size(); ++k, ++compared) {
      const auto& context = of.top[k];
      EXPECT_NEAR(context.value, all[k].value, 1e-4);
      const auto& window = windows[all[k].window];
      EXPECT_EQ(context.position, static_cast<int64_t>(all[k].at));
      EXPECT_EQ(
          context.ids.at(static_cast<size_t>(context.at)), window[all[k].at]);
      EXPECT_LE(context.ids.size(), 4u);
    }
  }
  EXPECT_GT(compared, 3u);
  const auto few = feature_contexts(
      model,
      sae,
      file,
      {.features = features, .length = 16, .tokens = 32, .site = site});
  EXPECT_EQ(few.windows, 2);

  FeatureContextOptions bad{.features = {3}, .length = 1, .site = site};
  EXPECT_THROW(feature_contexts(model, sae, file, bad), Error);
  bad.length = 100'000;
  EXPECT_THROW(feature_contexts(model, sae, file, bad), Error);
  EXPECT_THROW(
      feature_contexts(model, sae, folder.path() / "none.txt", {.site = site}),
      Error);
  EXPECT_THROW(
      feature_contexts(
          model, sae, file, {.features = {99}, .length = 16, .site = site}),
      Error);
}

}  // namespace
}  // namespace mlxterp
