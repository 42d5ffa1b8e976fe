// What must hold between the sites of any model, on a small random one.

#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

using test::expect_close;
using test::expect_identical;
using test::expect_repeated;
using test::tiny_config;
using test::tiny_model;
namespace mx = mlx::core;

const std::vector<int> prompt = {3, 14, 15, 92, 65, 35, 89, 79};

mx::array evaluated(mx::array x) {
  x.eval();
  return x;
}

TEST(Algebra, ATraceWithoutEditsIsThePlainPass) {
  const auto model = tiny_model();
  const auto plain = evaluated(model(prompt));
  Saved logits;
  {
    auto trace = model.trace(prompt);
    logits = model.output().save();
  }
  EXPECT_EQ(plain.size(), 8u * 97u);
  expect_repeated(logits.value(), plain, "traced logits");
  const auto all =
      model.run(prompt, {.save = {"layers.*.*", "layers.*.*.*", "logits"}});
  EXPECT_GT(all.size(), 30u);
  expect_repeated(all["logits"], plain, "logits with many sites saved");
}

TEST(Algebra, EverySiteIsReachedAndHasAValue) {
  const auto model = tiny_model();
  std::vector<std::string> names;
  for (size_t i = 0; i < model.sites().size(); ++i)
    if (const auto& name = model.sites()[SiteId(i)].name; !name.empty())
      names.push_back(name);
  const auto cache = model.run(prompt, {.save = names});
  EXPECT_EQ(cache.size(), names.size());
  EXPECT_GT(names.size(), 100u);
}

TEST(Algebra, PatchingASiteWithItselfChangesNothing) {
  const auto model = tiny_model();
  const auto plain = evaluated(model(prompt));
  size_t patched = 0;
  for (size_t i = 0; i < model.sites().size(); ++i) {
    const auto& site = model.sites()[SiteId(i)];
    if (site.name.empty() || site.name == "tokens" ||
        site.name == "embed.input")
      continue;
    const auto own = model.run(prompt, {.save = {site.name}})[site.name];
    const auto logits = model.run(
        prompt,
        {.save = {"logits"}, .edits = {{site.name, replace_with(own)}}});
    // Some open a fused path, some lie otherwise in memory: the same numbers,
    // but their sums in another order.
    EXPECT_LE(test::max_difference(logits["logits"], plain), 1e-5) << site.name;
    ++patched;
  }
  EXPECT_GT(patched, 100u);
}

TEST(Algebra, ComponentsSumToTheResidual) {
  const auto model = tiny_model();
  const auto run = model.run(
      prompt,
      {.save = {
           "embed",
           "layers.*.attn_out",
           "layers.*.mlp_out",
           "layers.2.resid_post",
           "layers.1.resid_mid",
           "layers.1.resid_pre"}});
  auto sum = run["embed"];
  for (int i = 0; i < 3; ++i) {
    const auto layer = "layers." + std::to_string(i);
    sum = sum + run[layer + ".attn_out"] + run[layer + ".mlp_out"];
  }
  expect_close(sum, run["layers.2.resid_post"], 1e-5, 8 * 24, "components");
  expect_close(
      run["layers.1.resid_pre"] + run["layers.1.attn_out"],
      run["layers.1.resid_mid"],
      1e-6,
      8 * 24,
      "resid_mid");
}

TEST(Algebra, PatternRowsSumToOneAndAreCausal) {
  const auto model = tiny_model();
  const auto run = model.run(
      prompt, {.save = {"layers.1.attn.pattern", "layers.1.attn.scores"}});
  const auto& pattern = run["layers.1.attn.pattern"];
  EXPECT_EQ(pattern.shape(), (mx::Shape{1, 6, 8, 8}));
  expect_close(
      mx::sum(pattern, -1), mx::ones({1, 6, 8}), 1e-5, 48, "pattern rows");
  expect_identical(pattern, mx::tril(pattern), "pattern above the diagonal");
  expect_close(
      mx::softmax(run["layers.1.attn.scores"], -1),
      pattern,
      1e-6,
      6 * 64,
      "softmax of scores");
}

TEST(Algebra, HeadsSumToTheOutput) {
  auto config = tiny_config();
  config.qkv_bias = config.attn_out_bias = true;
  const auto model = tiny_model(config);
  const auto run = model.run(
      prompt,
      {.save = {"layers.1.attn.{result,z,v,pattern}", "layers.1.attn_out"}});
  const auto& o_proj = model.decoder().layers[1]->attention()->o_proj;
  expect_close(
      mx::sum(run["layers.1.attn.result"], 2) + *o_proj.bias,
      run["layers.1.attn_out"],
      1e-5,
      8 * 24,
      "sum of result");
  // Query head h reads kv head h / 3.
  const auto v =
      mx::repeat(mx::transpose(run["layers.1.attn.v"], {0, 2, 1, 3}), 3, 1);
  expect_close(
      mx::transpose(mx::matmul(run["layers.1.attn.pattern"], v), {0, 2, 1, 3}),
      run["layers.1.attn.z"],
      1e-5,
      8 * 6 * 8,
      "pattern times v");
}

TEST(Algebra, NormsAreTheirParts) {
  const auto model = tiny_model();
  const auto run = model.run(
      prompt,
      {.save = {
           "layers.0.resid_pre",
           "layers.0.ln1.scale",
           "layers.0.ln1.normalized",
           "layers.0.ln1.output"}});
  EXPECT_EQ(run["layers.0.ln1.scale"].shape(), (mx::Shape{1, 8, 1}));
  expect_close(
      run["layers.0.resid_pre"] / run["layers.0.ln1.scale"],
      run["layers.0.ln1.normalized"],
      1e-6,
      8 * 24,
      "normalized");
  expect_close(
      run["layers.0.ln1.normalized"] * model.decoder().layers[0]->ln1->weight,
      run["layers.0.ln1.output"],
      1e-6,
      8 * 24,
      "norm");
}

TEST(Algebra, MlpSitesAreItsFactors) {
  const auto model = tiny_model();
  const auto run =
      model.run(prompt, {.save = {"layers.2.mlp.{pre,pre_linear,post}"}});
  const auto& pre = run["layers.2.mlp.pre"];
  expect_close(
      pre * mx::sigmoid(pre) * run["layers.2.mlp.pre_linear"],
      run["layers.2.mlp.post"],
      1e-6,
      8 * 40,
      "silu(pre) * pre_linear");
}

// Every path a value can take onwards must see the edit.
TEST(Algebra, EditsReachTheLogits) {
  const auto model = tiny_model();
  const auto plain = evaluated(model(prompt));
  for (const char* site :
       {"embed",
        "layers.0.resid_pre",
        "layers.1.resid_mid",
        "layers.1.attn_out",
        "layers.1.mlp_out",
        "layers.1.ln1.scale",
        "layers.1.ln2.normalized",
        "layers.1.attn.q",
        "layers.1.attn.k",
        "layers.1.attn.v",
        "layers.1.attn.rot_q",
        "layers.1.attn.rot_k",
        "layers.1.attn.z",
        "layers.1.attn.scores",
        "layers.1.attn.pattern",
        "layers.1.attn.result",
        "layers.1.mlp.pre",
        "layers.1.mlp.pre_linear",
        "layers.1.mlp.post",
        "layers.1.attn.q_proj.input",
        "ln_final.scale",
        "ln_final",
        "logits"}) {
    const auto changed =
        model.run(prompt, {.save = {"logits"}, .edits = {{site, scale(0.5f)}}});
    EXPECT_GT(test::max_difference(changed["logits"], plain), 1e-5) << site;
  }
}

TEST(Algebra, ZeroOutEqualsScaleZeroAndMovesOnlyWhatFollows) {
  const auto model = tiny_model();
  const std::vector<std::string> save = {
      "logits",
      "layers.1.mlp_out",
      "layers.0.resid_post",
      "layers.1.resid_mid",
      "layers.1.resid_post"};
  const auto zeroed = model.run(
      prompt, {.save = save, .edits = {{"layers.1.mlp_out", zero_out()}}});
  const auto scaled = model.run(
      prompt, {.save = save, .edits = {{"layers.1.mlp_out", scale(0)}}});
  expect_repeated(zeroed["logits"], scaled["logits"], "zero and scale(0)");
  expect_identical(
      zeroed["layers.1.resid_post"],
      zeroed["layers.1.resid_mid"],
      "a layer without its MLP");
  const auto plain = model.run(prompt, {.save = save});
  expect_repeated(
      plain["layers.0.resid_post"],
      zeroed["layers.0.resid_post"],
      "what stands before the edit");
}

TEST(Algebra, PaddedRowsEqualTheirSingleRuns) {
  const auto model = tiny_model();
  const std::vector<std::vector<int>> prompts = {
      {1, 2, 3}, {3, 14, 15, 92, 65, 35, 89, 79}, {5}, {6, 7, 8, 9, 10}};
  const std::vector<std::string> save = {
      "logits", "layers.*.resid_post", "layers.1.attn.z"};
  const auto batch = model.run(prompts, {.save = save});
  EXPECT_EQ(batch.lengths(), (std::vector<int>{3, 8, 1, 5}));
  for (int row = 0; row < 4; ++row) {
    const auto& ids = prompts[static_cast<size_t>(row)];
    const auto single = model.run(ids, {.save = save});
    for (const auto& [name, value] : single) {
      auto from = mx::Shape(value.ndim(), 0), to = value.shape();
      from[0] = row;
      to[0] = row + 1;
      expect_close(
          mx::slice(batch[name], from, to), value, 1e-5, value.size(), name);
    }
  }
}

TEST(Algebra, OtherNamesMeanTheSameSite) {
  const auto model = tiny_model();
  const auto& sites = model.sites();
  for (const auto& [name, canonical] :
       std::vector<std::pair<const char*, const char*>>{
           {"layers.1", "layers.1.resid_post"},
           {"layers.1.output", "layers.1.resid_post"},
           {"model.layers.1", "layers.1.resid_post"},
           {"model.model.layers.1", "layers.1.resid_post"},
           {"layers.1.input", "layers.1.resid_pre"},
           {"layers.1.attn", "layers.1.attn_out"},
           {"layers.1.self_attn", "layers.1.attn_out"},
           {"model.layers.1.self_attn.output", "layers.1.attn_out"},
           {"layers.1.self_attn.o_proj.output", "layers.1.attn.o_proj.output"},
           {"layers.1.mlp", "layers.1.mlp_out"},
           {"layers.1.mlp.down_proj.input", "layers.1.mlp.post"},
           {"layers.1.mlp.gate_proj", "layers.1.mlp.pre"},
           {"layers.1.input_layernorm", "layers.1.ln1.output"},
           {"layers.1.post_attention_layernorm", "layers.1.ln2.output"},
           {"model.embed_tokens", "embed"},
           {"model.norm", "ln_final"},
           {"lm_head", "logits"},
           {"output", "logits"},
           {"blocks.1.hook_resid_pre", "layers.1.resid_pre"},
           {"blocks.1.hook_resid_mid", "layers.1.resid_mid"},
           {"blocks.1.hook_resid_post", "layers.1.resid_post"},
           {"blocks.1.hook_attn_out", "layers.1.attn_out"},
           {"blocks.1.hook_mlp_out", "layers.1.mlp_out"},
           {"blocks.1.attn.hook_z", "layers.1.attn.z"},
           {"blocks.1.attn.hook_rot_q", "layers.1.attn.rot_q"},
           {"blocks.1.attn.hook_attn_scores", "layers.1.attn.scores"},
           {"blocks.1.attn.hook_pattern", "layers.1.attn.pattern"},
           {"blocks.1.attn.hook_result", "layers.1.attn.result"},
           {"blocks.1.mlp.hook_pre_linear", "layers.1.mlp.pre_linear"},
           {"blocks.1.mlp.hook_post", "layers.1.mlp.post"},
           {"blocks.1.ln1.hook_scale", "layers.1.ln1.scale"},
           {"ln_final.hook_normalized", "ln_final.normalized"},
           {"hook_embed", "embed"},
           {"layers_output[1]", "layers.1.resid_post"},
           {"layers_input[1]", "layers.1.resid_pre"},
           {"attentions_output[1]", "layers.1.attn_out"},
           {"mlps_output[1]", "layers.1.mlp_out"},
           {"token_embeddings", "embed"},
       }) {
    EXPECT_EQ(sites[sites.find(name)].name, canonical) << name;
  }
}

TEST(Algebra, PatternsMeanSites) {
  const auto model = tiny_model();
  const auto names = [&](const char* pattern) {
    std::vector<std::string> all;
    for (const auto site : model.sites().match(pattern))
      all.push_back(model.sites()[site].name);
    return all;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(
      names("layers.*.attn.z"),
      (Names{"layers.0.attn.z", "layers.1.attn.z", "layers.2.attn.z"}));
  EXPECT_EQ(
      names("layers.{1..2}.resid_post"),
      (Names{"layers.1.resid_post", "layers.2.resid_post"}));
  EXPECT_EQ(
      names("layers.{0,2}.mlp_out"),
      (Names{"layers.0.mlp_out", "layers.2.mlp_out"}));
  EXPECT_EQ(names("blocks.*.hook_resid_pre").size(), 3u);
  EXPECT_EQ(names("layers.*.self_attn").size(), 3u);
  EXPECT_EQ(names("layers.*").size(), 3u);
  EXPECT_EQ(names("layers.1.{attn_out,self_attn,mlp}").size(), 2u);
  EXPECT_EQ(names("*.1.*_mid"), (Names{"layers.1.resid_mid"}));
  // Every choice must exist, and no pattern takes long.
  EXPECT_THROW(names("layers.{1..3}.mlp_out"), Error);
  EXPECT_THROW(names("layers.*.****************************x"), Error);
  EXPECT_THROW(names("layers.{0..2000000000}"), Error);
}

}  // namespace
}  // namespace mlxterp
