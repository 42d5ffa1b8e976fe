// What an Sae computes, its folds, its files for other tools, its sites.

#include "mlxterp/sae/sae.h"

#include <gtest/gtest.h>

#include <cmath>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/core/error.h"
#include "mlxterp/sae/load.h"
#include "mlxterp/sae/save.h"
#include "sae/hooks.h"
#include "tests/compare.h"
#include "tests/temp_folder.h"

namespace mx = mlx::core;
namespace fs = std::filesystem;

namespace mlxterp {
namespace {

using testing::TempFolder;

const fs::path fixtures = MLXTERP_SOURCE_DIR "/tests/sae/fixtures";

mx::array random(const mx::Shape& shape, int seed) {
  auto out = mx::random::normal(shape, mx::float32, mx::random::key(seed));
  out.eval();
  return out;
}

Sae some(SaeActivation activation, int d = 6, int f = 16) {
  Sae sae{
      .W_enc = random({d, f}, 1),
      .b_enc = random({f}, 2),
      .W_dec = random({f, d}, 3),
      .b_dec = random({d}, 4)};
  sae.activation = activation;
  sae.subtract_b_dec = true;
  if (activation == SaeActivation::jump_relu)
    sae.threshold = mx::abs(random({f}, 5));
  else if (activation != SaeActivation::relu)
    sae.k = 4;
  return sae;
}

mx::array through(const Sae& sae, const mx::array& x) {
  return decode(sae, encode(sae, x), x);
}

template <typename Act>
void expect_error(ErrorKind kind, const std::string& says, const Act& act) {
  try {
    act();
    FAIL() << "no error that says " << says;
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_EQ(error.kind(), kind) << text;
    EXPECT_NE(text.find(says), text.npos) << text;
    EXPECT_EQ(text.substr(0, 1), "[") << text;
    EXPECT_NE(text.find(';'), text.npos) << "no advice: " << text;
  }
}

TEST(Sae, ExactlyKWhereSomeAreEqual) {
  auto sae = some(SaeActivation::topk);
  const auto pre = mx::ones({3, 16});
  for (const auto activation :
       {SaeActivation::topk,
        SaeActivation::signed_topk,
        SaeActivation::abs_topk,
        SaeActivation::group_max}) {
    sae.activation = activation;
    const auto acts = activate(sae, pre);
    EXPECT_EQ(mx::sum(acts).item<float>(), 12.0f) << name_of(activation);
  }
  sae.activation = SaeActivation::topk;
  EXPECT_EQ(mx::sum(activate(sae, mx::negative(pre))).item<float>(), 0.0f);
  sae.activation = SaeActivation::signed_topk;
  EXPECT_EQ(mx::sum(activate(sae, mx::negative(pre))).item<float>(), -12.0f);
  sae.k = 16;
  test::expect_identical(activate(sae, pre), pre, "k of all");
}

TEST(Sae, AnyLeadingAxesAndPrecision) {
  const auto sae = some(SaeActivation::jump_relu);
  const auto x = random({2, 5, 6}, 9);
  const auto acts = encode(sae, x);
  EXPECT_EQ(acts.shape(), (mx::Shape{2, 5, 16}));
  const auto flat = encode(sae, mx::reshape(x, {10, 6}));
  test::expect_repeated(mx::reshape(acts, {10, 16}), flat, "leading axes");
  EXPECT_EQ(encode(sae, mx::astype(x, mx::float16)).dtype(), mx::float32);
  EXPECT_EQ(decode(sae, mx::astype(acts, mx::bfloat16)).dtype(), mx::float32);
}

TEST(Sae, FoldsInAnyOrder) {
  const auto x = random({7, 6}, 11);
  for (const auto activation :
       {SaeActivation::relu, SaeActivation::jump_relu}) {
    const auto plain = some(activation);
    // Made for x s: its reconstruction of x s, scaled back.
    const float s = 1.7f;
    const auto scaled = mx::multiply(x, mx::array(s));
    const auto expected = mx::divide(through(plain, scaled), mx::array(s));
    const auto folded = fold_scale(plain, s);
    test::expect_close(through(folded, x), expected, 1e-5, 42, "scale");
    test::expect_close(
        encode(folded, x), encode(plain, scaled), 1e-5, 112, "acts");

    const auto unit = fold_decoder_norm(plain);
    test::expect_close(through(unit, x), through(plain, x), 1e-5, 42, "norm");
    const auto twice = fold_decoder_norm(unit);
    test::expect_close(encode(twice, x), encode(unit, x), 1e-5, 112, "twice");

    const auto one = fold_decoder_norm(fold_scale(plain, s));
    const auto other = fold_decoder_norm(fold_scale(unit, s));
    test::expect_close(through(one, x), expected, 1e-5, 42, "scale, norm");
    test::expect_close(through(other, x), expected, 1e-5, 42, "both");
    test::expect_close(
        encode(one, x), encode(other, x), 2e-5, 112, "either order");
  }
}

TEST(Sae, WhiteningIsUndone) {
  const auto x = random({7, 6}, 12);
  const auto mean = random({6}, 13);
  const auto diagonal = mx::add(mx::abs(random({6}, 14)), mx::array(0.5f));
  const auto matrix = mx::diag(diagonal);
  const auto inverse = mx::diag(mx::reciprocal(diagonal));
  for (const bool subtract : {true, false}) {
    auto sae = some(SaeActivation::jump_relu);
    sae.subtract_b_dec = subtract;
    const auto z = mx::matmul(mx::subtract(x, mean), matrix);
    const auto expected = mx::add(mx::matmul(through(sae, z), inverse), mean);
    const auto folded = fold_whitening(sae, mean, matrix, inverse);
    test::expect_close(through(folded, x), expected, 2e-5, 42, "whitening");
    test::expect_close(encode(folded, x), encode(sae, z), 2e-5, 112, "acts");
  }
}

TEST(Sae, RefusesWhatDoesNotFit) {
  const auto sae = some(SaeActivation::topk);
  expect_error(ErrorKind::usage, "is 6 wide", [&] {
    (void)encode(sae, mx::zeros({3, 7}));
  });
  expect_error(ErrorKind::usage, "is 16 wide", [&] {
    (void)decode(sae, mx::zeros({3, 15}));
  });
  auto normed = sae;
  normed.norm = SaeNorm::layer_norm;
  normed.undo_norm = true;
  expect_error(ErrorKind::usage, "give the input", [&] {
    (void)decode(normed, mx::zeros({3, 16}));
  });
  expect_error(
      ErrorKind::usage, "normalised row", [&] { (void)fold_scale(normed, 2); });
  expect_error(ErrorKind::usage, "would change which", [&] {
    (void)fold_decoder_norm(sae);
  });
  for (const float scale : {0.0f, -1.0f, INFINITY, NAN})
    expect_error(ErrorKind::usage, "has to be positive", [&] {
      (void)fold_scale(sae, scale);
    });
  const auto broken = [](const std::string& says, auto change) {
    auto bad = some(SaeActivation::jump_relu);
    change(bad);
    expect_error(ErrorKind::bad_data, says, [&] { check(bad); });
  };
  broken("b_enc is [3]", [](Sae& s) { s.b_enc = mx::zeros({3}); });
  broken("b_dec is [6] and should be [5]", [](Sae& s) {
    s.W_dec = mx::zeros({16, 5});
  });
  broken("without its threshold", [](Sae& s) { s.threshold.reset(); });
  broken("threshold is [1]", [](Sae& s) { s.threshold = mx::zeros({1}); });
  broken("W_skip is [6, 7]", [](Sae& s) { s.W_skip = mx::zeros({6, 7}); });
  broken("k is 17", [](Sae& s) {
    s.activation = SaeActivation::topk;
    s.k = 17;
  });
  broken("5 equal groups", [](Sae& s) {
    s.activation = SaeActivation::group_max;
    s.k = 5;
  });
  broken("not float32", [](Sae& s) {
    s.b_dec = mx::astype(s.b_dec, mx::float16);
  });
}

TEST(Sae, FitOfAllRows) {
  const auto x = random({50, 6}, 20);
  const auto recon =
      mx::add(x, mx::multiply(random({50, 6}, 21), mx::array(0.3f)));
  auto acts = mx::zeros({50, 16});
  acts = mx::where(
      mx::less(random({50, 16}, 22), mx::array(0.0f)), acts, mx::array(1.0f));
  SaeFitter fitter;
  for (int at = 0; at < 50; at += 20) {
    const auto rows = [&](const mx::array& a) {
      return mx::slice(a, {at, 0}, {std::min(50, at + 20), a.shape(1)});
    };
    fitter.add(rows(x), rows(recon), rows(acts));
  }
  const auto fit = fitter.fit();
  const double n = 50;
  const double error =
      mx::sum(mx::square(mx::subtract(x, recon))).item<float>();
  const double square = mx::sum(mx::square(x)).item<float>();
  const double mean = mx::sum(mx::square(mx::mean(x, 0))).item<float>();
  EXPECT_EQ(fit.rows, 50u);
  EXPECT_NEAR(
      fit.explained_variance, 1 - error / n / (square / n - mean), 1e-5);
  EXPECT_NEAR(fit.fvu, 1 - fit.explained_variance, 1e-12);
  EXPECT_NEAR(fit.l0, mx::sum(acts).item<float>() / n, 1e-5);
}

TEST(Sae, DoubtsWhatCannotBe) {
  auto sae = some(SaeActivation::relu);
  sae.source.site_in = "layers.5.resid_post";
  EXPECT_EQ(doubt(sae, {.rows = 9, .explained_variance = 0.9, .l0 = 50}), "");
  EXPECT_NE(
      doubt(sae, {.rows = 9, .explained_variance = -0.4, .l0 = 50})
          .find("layers.5.resid_post"),
      std::string::npos);
  sae.source.l0 = 70;
  EXPECT_EQ(doubt(sae, {.rows = 9, .explained_variance = 0.9, .l0 = 150}), "");
  EXPECT_NE(doubt(sae, {.rows = 9, .explained_variance = 0.9, .l0 = 400}), "");
  EXPECT_NE(doubt(sae, {.rows = 9, .explained_variance = 0.9, .l0 = 5}), "");
}

TEST(Sae, HooksAreSites) {
  const std::vector<std::vector<std::string>> known = {
      {"blocks.5.hook_resid_post", "layers.5.resid_post"},
      {"blocks.5.hook_resid_pre", "layers.5.resid_pre"},
      {"blocks.0.hook_mlp_out", "layers.0.mlp_out"},
      {"blocks.11.hook_mlp_in", "layers.11.resid_mid"},
      {"blocks.11.attn.hook_z", "layers.11.attn.z"},
      {"blocks.3.ln2.hook_normalized", "layers.3.ln2.normalized"},
      {"blocks.3.mlp.hook_in", "layers.3.mlp.input"},
      {"blocks.3.mlp.hook_post", "layers.3.mlp.post"},
      {"hook_embed", "embed"},
      {"layers.5", "layers.5.resid_post"},
      {"model.layers.5", "layers.5.resid_post"},
      {"model.layers.5.output", "layers.5.resid_post"},
      {"transformer.h.5", "layers.5.resid_post"},
      {"h.5.mlp", "layers.5.mlp.output"},
      {"gpt_neox.layers.2.attention", "layers.2.attn.output"},
      {"model.layers.5.self_attn.o_proj.input", "layers.5.attn.z"},
      {"model.layers.5.post_feedforward_layernorm.output", "layers.5.mlp_out"},
      {"embed_tokens", "embed"},
      {"resid_post_layer_3", "layers.3.resid_post"},
      {"attention_out_layer_12", "layers.12.attn_out"},
      {"", ""}};
  for (const auto& pair : known)
    EXPECT_EQ(site_of_hook(pair[0]), pair[1]) << pair[0];
  EXPECT_EQ(site_of_hook("layers.5", "input"), "layers.5.resid_pre");
  EXPECT_EQ(site_of_hook("layers.5.mlp", "input"), "layers.5.mlp.input");
  EXPECT_EQ(layer_of_site("layers.12.attn.z"), 12);
  EXPECT_EQ(layer_of_site("embed"), -1);
}

// What is written reads to the same activations and reconstructions.
TEST(Sae, SavedForSaelens) {
  const std::vector<std::string> written = {
      "saelens_standard",
      "saelens_layer_norm",
      "saelens_gated",
      "saelens_topk_rescaled",
      "saelens_abstopk",
      "saelens_hook_z",
      "saelens_scaled",
      "saelens_transcoder",
      "saelens_jumprelu_skip_transcoder",
      "dl_matryoshka/trainer_0",
      "openai_topk"};
  const auto x = random({6, 12}, 30);
  const TempFolder folder;
  for (const auto& name : written) {
    SCOPED_TRACE(name);
    const auto sae = load_sae((fixtures / name).string());
    const auto to = folder / ("to_" + name.substr(0, name.find('/')));
    save_saelens(sae, to);
    const auto back = load_sae(to.string());
    const auto acts = encode(back, x);
    test::expect_close(acts, encode(sae, x), 1e-5, acts.size(), name);
    const auto recon = decode(back, acts, x);
    test::expect_close(recon, through(sae, x), 1e-5, recon.size(), name);
    EXPECT_EQ(back.source.site_in, sae.source.site_in);
    EXPECT_EQ(back.source.site_out, sae.source.site_out);
    EXPECT_EQ(back.source.model, sae.source.model);
    EXPECT_EQ(back.source.l0, sae.source.l0);
    expect_error(ErrorKind::usage, "exists", [&] { save_saelens(sae, to); });
    save_saelens(sae, to, /*overwrite=*/true);
  }
  const auto groups =
      load_sae((fixtures / "sparsify_groupmax/layers.3.mlp").string());
  expect_error(ErrorKind::usage, "no class", [&] {
    save_saelens(groups, folder / "none");
  });
  EXPECT_FALSE(fs::exists(folder / "none"));
}

TEST(Sae, SavedForCircuitTracer) {
  const auto x = random({6, 12}, 31);
  const TempFolder folder;
  for (const auto* name :
       {"circuit_tracer_jump", "circuit_tracer_topk", "circuit_tracer_clt"}) {
    SCOPED_TRACE(name);
    const auto set = SaeSet::open((fixtures / name).string());
    save_circuit_tracer(set, folder / name);
    const auto back = SaeSet::open((folder / name).string());
    EXPECT_EQ(back.kind(), set.kind());
    EXPECT_EQ(back.model(), set.model());
    EXPECT_EQ(back.hook_in(), set.hook_in());
    EXPECT_EQ(back.scan(), set.scan());
    const auto ours = back.reconstruct({x, x, x});
    const auto theirs = set.reconstruct({x, x, x});
    for (size_t i = 0; i < 3; ++i)
      test::expect_close(ours[i], theirs[i], 1e-5, 72, name);
  }
  // One file of another format, as the only layer of a set.
  auto one = load_sae(
      (fixtures / "gemma_scope_2_affine/gemma-scope-2-270m-it/transcoder_all/"
                  "layer_7_width_16k_l0_small_affine")
          .string());
  expect_error(ErrorKind::usage, "every layer from 0", [&] {
    save_circuit_tracer(std::vector{one}, folder / "one");
  });
  one.source.layer = 0;
  save_circuit_tracer(std::vector{one}, folder / "one");
  const auto back = load_sae((folder / "one").string(), {.layer = 0});
  test::expect_close(through(back, x), through(one, x), 1e-5, 72, "one");
  const auto sae = load_sae((fixtures / "saelens_standard").string());
  expect_error(ErrorKind::usage, "no class", [&] {
    auto first = sae;
    first.source.layer = 0;
    save_circuit_tracer(std::vector{first}, folder / "sae");
  });
}

}  // namespace
}  // namespace mlxterp
