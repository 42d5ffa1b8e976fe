// Features as sites: with its error a model stays what it is, bit by bit,
// without it equals substituting by hand, and every analysis of features equals
// the same change of the residual stream made by hand.

#include "mlxterp/sae/attach.h"

#include <gtest/gtest.h>

#include <cmath>

#include "mlx/ops.h"
#include "mlxterp/analysis/ablate.h"
#include "mlxterp/analysis/attribute.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/core/error.h"
#include "mlxterp/generate/generate.h"
#include "mlxterp/sae/module.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/sae/tiny_sae.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using Mode = AttachOptions::Mode;

const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};

mx::array logits_of(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    std::vector<Edit> edits = {}) {
  return model.run(
      ids, {.save = {"logits"}, .edits = std::move(edits)})["logits"];
}

// Within the rounding of float32 sums at that size.
void near(
    const mx::array& got, const mx::array& wanted, const std::string& what) {
  const double size = std::max(1.0, test::max_magnitude(wanted));
  test::expect_close(got, wanted, 2e-5 * size, wanted.size(), what);
}

mx::array column(const mx::array& x, int i) {
  return mx::slice(x, {0, 0, i}, {x.shape(0), x.shape(1), i + 1});
}

// A feature that is active somewhere.
int active_feature(const mx::array& acts) {
  const auto total = mx::sum(mx::abs(acts), {0, 1});
  return static_cast<int>(mx::argmax(total).item<uint32_t>());
}

struct Case {
  std::string variant;
  std::string site;
  int sae;
};

class Attached : public testing::TestWithParam<Case> {};

TEST_P(Attached, FeaturesAreTheResidualStreams) {
  const auto& [variant, site, which] = GetParam();
  const auto plain =
      InterpretableModel::load((test::families_root / variant).string());
  const auto value = plain.run(clean, {.save = {site}})[site];
  const int d = static_cast<int>(value.size() / clean.size());
  const auto sae = test::random_sae(which, d, 48);
  const auto flat = mx::reshape(value, {1, -1, d});
  const auto acts = encode(sae, flat);
  const auto recon = mx::reshape(decode(sae, acts, flat), value.shape());
  const auto attach = [&](Mode mode) {
    return attach_sae(plain, sae, {.mode = mode, .site = site});
  };
  const auto plain_logits = logits_of(plain, clean);

  const auto read = attach(Mode::read);
  const auto seen =
      read.run(clean, {.save = {site + ".sae.acts", site + ".sae.recon"}});
  near(seen[site + ".sae.acts"], acts, "acts");
  near(seen[site + ".sae.recon"], recon, "recon");
  test::expect_repeated(logits_of(read, clean), plain_logits, "read");

  // One array passes through: what goes in comes out, whatever a BLAS does.
  const auto exact = attach(Mode::replace_with_error);
  const auto kept = exact.run(
      clean,
      {.save = {site, site + ".sae.input", site + ".sae.error", "logits"}});
  test::expect_identical(kept[site], kept[site + ".sae.input"], "with error");
  test::expect_repeated(kept["logits"], plain_logits, "logits with error");
  near(kept[site + ".sae.error"], mx::subtract(value, recon), "error");

  const auto by_hand = logits_of(plain, clean, {{site, replace_with(recon)}});
  near(logits_of(attach(Mode::replace), clean), by_hand, "replace");

  // Without a feature: less its activation times its decoder row.
  const int f = active_feature(acts);
  auto row =
      mx::matmul(column(acts, f), mx::take(sae.W_dec, mx::array({f}), 0));
  if (sae.undo_norm)
    row = mx::multiply(
        row, mx::sqrt(mx::var(mx::astype(flat, mx::float32), -1, true, 1)));
  row = mx::reshape(row, value.shape());
  const Edit gone = {site + ".sae.acts", on_neurons({f}, zero_out())};
  const auto ablated = logits_of(exact, clean, {gone});
  near(
      ablated,
      logits_of(
          plain,
          clean,
          {{site,
            [&](const mx::array& x) {
              return mx::astype(mx::subtract(x, row), x.dtype());
            }}}),
      "a feature ablated");
  EXPECT_GT(test::max_difference(ablated, plain_logits), 1e-4);
  near(
      logits_of(
          exact, clean, {{site + ".sae.acts", on_neurons({f}, scale(3.0f))}}),
      logits_of(
          plain,
          clean,
          {{site,
            [&](const mx::array& x) {
              return mx::astype(mx::add(x, mx::add(row, row)), x.dtype());
            }}}),
      "a feature three times");
  near(logits_of(exact.with({gone}), clean), ablated, "a standing edit");
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    Attached,
    testing::Values(
        Case{"llama-gqa", "layers.1.resid_post", 0},
        Case{"gpt2", "layers.0.resid_pre", 1},
        Case{"gemma2", "layers.1.resid_post", 2},
        Case{"gpt_neox", "layers.0.attn_out", 3},
        Case{"olmo2", "layers.1.mlp_out", 4},
        Case{"qwen3_moe", "layers.1.resid_mid", 5},
        Case{"phi", "layers.0.resid_post", 6},
        Case{"mixtral", "layers.1.resid_pre", 7},
        Case{"mamba2", "layers.0.resid_post", 0},
        Case{"gemma3", "layers.0.attn.z", 2}),
    [](const auto& tested) { return test::test_name(tested.param.variant); });

void same_numbers(
    const std::vector<float>& got,
    const std::vector<float>& wanted,
    const std::string& what) {
  ASSERT_EQ(got.size(), wanted.size()) << what;
  const int n = static_cast<int>(got.size());
  test::expect_close(
      mx::array(got.data(), {n}),
      mx::array(wanted.data(), {n}),
      2e-5,
      wanted.size(),
      what);
}

TEST(AttachedSweeps, FeaturesArePatchedAblatedAndAttributed) {
  const auto plain = test::tiny_model();
  const std::string site = "layers.1.resid_post";
  const auto sae = test::random_sae(0, 24, 32);
  const auto model =
      attach_sae(plain, sae, {.mode = Mode::replace_with_error, .site = site});
  const auto acts_at = site + ".sae.acts";
  PatchOptions options{
      .clean = clean,
      .corrupt = corrupt,
      .site = "resid_post.sae.acts",
      .by = {Axis::neuron},
      .metric = logit_diff(4, 9),
      .layers = {1}};
  const auto fast = patch(model, options);
  EXPECT_EQ(fast.cells(), 32u);
  options.one_pass_per_cell = true;
  const auto slow = patch(model, options);
  same_numbers(fast.metric, slow.metric, "patch by feature");
  // By hand: the difference of activations times the decoder row.
  const auto source = encode(sae, plain.run(clean, {.save = {site}})[site]);
  const auto own = encode(sae, plain.run(corrupt, {.save = {site}})[site]);
  std::vector<float> by_hand, sloped, step;
  for (int f = 0; f < 32; ++f) {
    const auto change = mx::subtract(column(source, f), column(own, f));
    const auto row = mx::take(sae.W_dec, mx::array({f}), 0);
    const auto moved = [&](float by) {
      const auto by_row = mx::multiply(mx::matmul(change, row), mx::array(by));
      return measure(
          plain,
          options.metric,
          logits_of(plain, corrupt, {{site, add_vector(by_row)}}));
    };
    by_hand.push_back(moved(1));
    sloped.push_back((moved(0.02f) - moved(-0.02f)) / 0.04f);
  }
  same_numbers(fast.metric, by_hand, "patch by hand");

  const auto attributed = attribute(
      model,
      {.clean = clean,
       .corrupt = corrupt,
       .sites = {"resid_post.sae.acts"},
       .by = {Axis::neuron},
       .metric = logit_diff(4, 9),
       .layers = {1}});
  step = attributed.at(0).attributions();
  ASSERT_EQ(step.size(), sloped.size());
  const mx::array got(step.data(), {32}), wanted(sloped.data(), {32});
  EXPECT_GT(test::max_magnitude(wanted), 1e-2);
  test::expect_close(got, wanted, 2e-4, 32, "attribution by feature");

  const auto ablated = ablate(
      model,
      {.prompts = clean,
       .site = "resid_post.sae.acts",
       .by = {Axis::neuron},
       .metric = logit(4),
       .ablation = Ablation::zero,
       .layers = {1}});
  std::vector<float> each;
  for (int f = 0; f < 32; ++f)
    each.push_back(measure(
        model,
        logit(4),
        logits_of(model, clean, {{acts_at, on_neurons({f}, zero_out())}})));
  same_numbers(ablated.metric, each, "ablate by feature");

  // A sweep of something else, over a model whose feature is gone for good.
  const auto edited =
      model.with({{acts_at, on_neurons({active_feature(own)}, zero_out())}});
  PatchOptions heads{
      .clean = clean,
      .corrupt = corrupt,
      .site = "z",
      .by = {Axis::layer, Axis::head},
      .metric = logit_diff(4, 9)};
  const auto waved = patch(edited, heads);
  heads.one_pass_per_cell = true;
  same_numbers(waved.metric, patch(edited, heads).metric, "heads under it");
}

TEST(AttachedTranscoder, ReadsOneSiteAndWritesAnother) {
  for (const std::string variant : {"llama-gqa", "gpt_neox", "gemma2"}) {
    SCOPED_TRACE(variant);
    const auto plain =
        InterpretableModel::load((test::families_root / variant).string());
    const std::string from = "layers.1.mlp.input", to = "layers.1.mlp_out";
    const auto values = plain.run(clean, {.save = {from, to}});
    const int d = values[from].shape(-1);
    auto coder = test::random_sae(7, d, 40, d, /*transcoder=*/true);
    coder.source.site_in = from;
    coder.source.site_out = to;
    const auto acts = encode(coder, values[from]);
    const auto recon = decode(coder, acts, values[from]);

    const auto replaced = attach_sae(plain, coder, {.mode = Mode::replace});
    const auto seen = replaced.run(
        clean, {.save = {to + ".sae.acts", to + ".sae.input", to, "logits"}});
    near(seen[to + ".sae.acts"], acts, "acts of the MLP's input");
    near(seen[to + ".sae.input"], values[from], "what it reads");
    near(
        seen["logits"],
        logits_of(plain, clean, {{to, replace_with(recon)}}),
        "in the MLP's place");

    const auto exact =
        attach_sae(plain, coder, {.mode = Mode::replace_with_error});
    const auto kept = exact.run(clean, {.save = {to, to + ".sae.error"}});
    near(kept[to + ".sae.error"], mx::subtract(values[to], recon), "error");
    test::expect_repeated(
        logits_of(exact, clean), logits_of(plain, clean), "with its error");
    const int f = active_feature(acts);
    const auto row =
        mx::matmul(column(acts, f), mx::take(coder.W_dec, mx::array({f}), 0));
    near(
        logits_of(
            exact, clean, {{to + ".sae.acts", on_neurons({f}, zero_out())}}),
        logits_of(
            plain,
            clean,
            {{to,
              [&](const mx::array& x) {
                return mx::astype(mx::subtract(x, row), x.dtype());
              }}}),
        "a feature ablated");

    PatchOptions options{
        .clean = clean,
        .corrupt = corrupt,
        .site = "mlp_out.sae.acts",
        .by = {Axis::position, Axis::neuron},
        .metric = logit_diff(4, 9),
        .layers = {1},
        .neurons = {f, (f + 1) % 40, (f + 2) % 40}};
    const auto fast = patch(exact, options);
    options.one_pass_per_cell = true;
    same_numbers(fast.metric, patch(exact, options).metric, "patched");
    // What it reads is edited, too.
    const auto doubled = logits_of(replaced, clean, {{from, scale(2.0f)}});
    const auto twice = mx::multiply(values[from], mx::array(2.0f));
    near(
        doubled,
        logits_of(
            plain,
            clean,
            {{to, replace_with(decode(coder, encode(coder, twice), twice))}}),
        "what it reads edited");
  }
}

TEST(AttachedTranscoder, ReadsOfferedValuesAndNothingElsewhere) {
  const auto plain = test::tiny_model();
  auto coder = test::random_sae(2, 24, 40, 24, /*transcoder=*/true);
  coder.source.site_in = "layers.1.ln2.normalized";
  coder.source.site_out = "layers.1.mlp_out";
  const auto model = attach_sae(plain, coder);
  const auto run = model.run(
      clean,
      {.save = {"layers.1.ln2.normalized", "layers.1.mlp_out.sae.acts"}});
  near(
      run["layers.1.mlp_out.sae.acts"],
      encode(coder, run["layers.1.ln2.normalized"]),
      "acts of a norm");
  // In another layer both sites move.
  EXPECT_EQ(
      sae_sites(plain, coder, "layers.2.mlp_out").reads,
      "layers.2.ln2.normalized");
  for (const auto* reads :
       {"layers.0.mlp.input", "layers.1.ln1.output", "layers.1.resid_pre"})
    EXPECT_THROW((void)attach_sae(plain, coder, {.reads = reads}), Error)
        << reads;
  // Behind what it is attached to.
  const auto late = attach_sae(plain, coder, {.reads = "layers.1.resid_post"});
  EXPECT_THROW(logits_of(late, clean), Error);
}

TEST(AttachedGeneration, SaysTheSameWithItsError) {
  const auto plain = test::tiny_model();
  const auto sae = test::random_sae(0, 24, 32);
  const GenerateOptions options{.max_tokens = 6};
  const auto said = [&](const InterpretableModel& model) {
    std::vector<int> ids;
    const auto made = generate(model, clean, options);
    for (const auto& token : made.texts.at(0).tokens)
      ids.push_back(token.id);
    return ids;
  };
  const auto attach = [&](Mode mode) {
    return attach_sae(
        plain, sae, {.mode = mode, .site = "layers.0.resid_post"});
  };
  EXPECT_EQ(said(attach(Mode::replace_with_error)), said(plain));
  EXPECT_EQ(said(attach(Mode::read)), said(plain));
}

TEST(SaeFeatures, AreThoseOfTheWholeSae) {
  const auto plain = test::tiny_model();
  const std::string site = "layers.1.resid_post";
  const auto x = plain.run(clean, {.save = {site}})[site];
  const std::vector<int> wanted = {7, 0, 31, 7};
  const mx::array ids(wanted.data(), {4}, mx::int32);
  for (int which = 0; which < test::n_random_saes; ++which) {
    const auto sae = test::random_sae(which, 24, 32);
    const auto model = plain.attach(
        site,
        std::make_shared<SaeFeatures>(sae, wanted),
        {.name = "some", .by_position = true});
    near(
        model.run(clean, {.save = {site + ".some.acts"}})[site + ".some.acts"],
        mx::take(encode(sae, x), ids, -1),
        "some features");
  }
  const auto sae = test::random_sae(0, 24, 32);
  EXPECT_THROW(SaeFeatures(sae, {}), Error);
  EXPECT_THROW(SaeFeatures(sae, {32}), Error);
  EXPECT_THROW(SaeFeatures(sae, {-1}), Error);
}

std::string refusal(const auto& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(AttachedCheck, WhatDoesNotFitIsNamedWithItsCause) {
  const auto plain = test::tiny_model();
  const std::vector<int> prompt = {5, 11, 3, 29, 7, 13, 2, 44, 61, 90};
  const auto at = [](int layer) {
    return fmt::format("layers.{}.resid_post", layer);
  };
  const auto rows = [&](int layer) {
    return mx::squeeze(plain.run(prompt, {.save = {at(layer)}})[at(layer)], 0);
  };
  auto sae = test::learnt_by_heart(rows(1), rows(1));
  sae.source.site_in = sae.source.site_out = at(1);
  sae.source.model = "someone/else";
  sae.source.file = "sae.safetensors";
  const auto sites = sae_sites(plain, sae);
  const auto fit = sae_fit(plain, sae, prompt, sites);
  EXPECT_GT(fit.explained_variance, 0.7);
  EXPECT_EQ(fit.rows, 9u);
  EXPECT_NO_THROW(check_fit(plain, sae, prompt, sites));
  EXPECT_NO_THROW((void)attach_sae(plain, sae, {.check_on = prompt}));

  // With an offset, without which nothing is explained.
  const auto mean = mx::full({24}, 3.0f, mx::float32);
  const auto shift = [&](const mx::array& x) { return mx::add(x, mean); };
  const auto shifted = plain.with({{at(1), shift}});
  const auto x = shift(rows(1));
  auto offset = test::learnt_by_heart(x, mx::subtract(x, mean));
  offset.b_dec = mean;
  offset.source = sae.source;
  EXPECT_NO_THROW(check_fit(shifted, offset, prompt, sites));
  const auto refused = [&](const Sae& it, const std::string& site) {
    return refusal([&] {
      (void)attach_sae(shifted, it, {.site = site, .check_on = prompt});
    });
  };
  const auto off = refused(offset, at(0));
  EXPECT_NE(off.find("layer is probably off by 1"), off.npos) << off;
  EXPECT_NE(off.find("'layers.1.resid_post' it explains"), off.npos) << off;
  const auto part = refused(offset, "layers.1.mlp_out");
  EXPECT_NE(part.find("'layers.1.resid_post' it explains"), part.npos) << part;

  // Trained on inputs of mean length sqrt(d).
  const auto length =
      mx::mean(
          mx::sqrt(mx::sum(mx::square(mx::slice(x, {1, 0}, x.shape())), -1)))
          .item<float>();
  const auto small = mx::multiply(x, mx::array(std::sqrt(24.0f) / length));
  auto scaled = test::learnt_by_heart(small, small);
  scaled.source = sae.source;
  const auto by_scale = refused(scaled, at(1));
  EXPECT_NE(by_scale.find("scaled activations"), by_scale.npos) << by_scale;

  auto other = test::random_sae(0, 24, 32);
  other.W_dec = mx::multiply(other.W_dec, mx::array(50.0f));
  other.source = sae.source;
  const auto none = refused(other, at(1));
  EXPECT_NE(none.find("another model"), none.npos) << none;
  EXPECT_NE(none.find("someone/else"), none.npos) << none;

  auto sparse = sae;
  sparse.source.l0 = 40;
  const auto l0 = refusal([&] { check_fit(plain, sparse, prompt, sites); });
  EXPECT_NE(l0.find("its file says 40.0"), l0.npos) << l0;

  // What fits nowhere.
  EXPECT_NE(
      refusal([&] {
        (void)attach_sae(plain, test::random_sae(0, 16, 32), {.site = at(1)});
      }).find("reads 16 numbers, and 'layers.1.resid_post' has 24"),
      std::string::npos);
  EXPECT_NE(
      refusal([&] {
        (void)attach_sae(plain, test::random_sae(0, 24, 32));
      }).find("does not say where it belongs"),
      std::string::npos);
  sae.source.site_in = "layers.11.resid_post";
  EXPECT_THROW((void)attach_sae(plain, sae), Error);
  EXPECT_THROW(
      (void)attach_sae(
          plain,
          test::random_sae(0, 24, 32),
          {.site = "layers.1.attn.pattern"}),
      Error);
}

}  // namespace
}  // namespace mlxterp
