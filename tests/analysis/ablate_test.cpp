// Ablation and causal tracing against forward passes with plain edits.

#include "mlxterp/analysis/ablate.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlxterp/analysis/causal_trace.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

const std::vector<int> prompt = {5, 11, 3, 29, 7, 13, 2};

float logit_of(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    int token,
    const std::vector<Edit>& edits) {
  const auto logits =
      model.run(ids, {.save = {"logits"}, .edits = edits})["logits"];
  const int last = logits.shape(1) - 1;
  return mx::slice(logits, {0, last, token}, {1, last + 1, token + 1})
      .item<float>();
}

void expect_cells(
    const std::vector<float>& got,
    const std::vector<float>& wanted,
    const std::string& what) {
  const auto flat = [](const std::vector<float>& values) {
    return mx::array(values.data(), {static_cast<int>(values.size())});
  };
  ASSERT_EQ(got.size(), wanted.size());
  test::expect_close(flat(got), flat(wanted), 1e-5, wanted.size(), what);
}

TEST(Ablate, ZeroEqualsPlainEdits) {
  for (const auto& variant : {"llama-gqa", "gpt2", "gemma2", "mixtral"}) {
    const auto model =
        InterpretableModel::load((test::families_root / variant).string());
    const auto& config = model.decoder().config();
    std::vector<float> heads, layers;
    for (int i = 0; i < config.n_layers; ++i) {
      for (int h = 0; h < config.n_heads; ++h)
        heads.push_back(logit_of(
            model,
            prompt,
            4,
            {{fmt::format("layers.{}.attn.z", i), on_heads({h}, zero_out())}}));
      for (int p = 0; p < 7; ++p)
        layers.push_back(logit_of(
            model,
            prompt,
            4,
            {{fmt::format("layers.{}.mlp_out", i),
              at_positions({p}, zero_out())}}));
    }
    AblateOptions options{
        .prompts = prompt, .metric = logit(4), .ablation = Ablation::zero};
    const auto sweep = ablate(model, options);
    expect_cells(sweep.metric, heads, std::string(variant) + " heads");
    EXPECT_NEAR(sweep.clean, logit_of(model, prompt, 4, {}), 1e-5);
    EXPECT_TRUE(std::isnan(sweep.corrupt));
    options.site = "mlp_out";
    options.by = {Axis::layer, Axis::position};
    expect_cells(
        ablate(model, options).metric, layers, std::string(variant) + " MLP");
  }
}

TEST(Ablate, MeanOverData) {
  const auto model = test::tiny_model();
  const Inputs::Rows data = {
      {1, 2, 3, 4, 5, 6, 7}, {9, 8, 7, 6, 5, 4, 3, 2}, {20, 21, 22}};
  std::vector<float> wanted;
  for (int i = 0; i < 3; ++i) {
    const auto site = fmt::format("layers.{}.attn.z", i);
    const auto a = model.run(data[0], {.save = {site}})[site];
    const auto b = mx::slice(
        model.run(data[1], {.save = {site}})[site], {0, 0, 0, 0}, {1, 7, 6, 8});
    const auto c = model.run(data[2], {.save = {site}})[site];
    const auto first = [](const mx::array& x, int from, int to) {
      return mx::slice(x, {0, from, 0, 0}, {1, to, 6, 8});
    };
    const auto mean = mx::concatenate(
        {(first(a, 0, 3) + first(b, 0, 3) + c) / mx::array(3.0f),
         (first(a, 3, 7) + first(b, 3, 7)) / mx::array(2.0f)},
        1);
    for (int h = 0; h < 6; ++h)
      wanted.push_back(logit_of(
          model,
          prompt,
          4,
          {{site,
            on_heads(
                {h},
                replace_with(
                    mx::slice(mean, {0, 0, h, 0}, {1, 7, h + 1, 8})))}}));
  }
  const auto sweep = ablate(
      model, {.prompts = prompt, .metric = logit(4), .data = Inputs(data)});
  expect_cells(sweep.metric, wanted, "mean");
}

TEST(Ablate, ResampleTakesAnotherPrompt) {
  const auto model = test::tiny_model();
  const std::vector<int> other = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  std::vector<float> wanted;
  for (int i = 0; i < 3; ++i) {
    const auto site = fmt::format("layers.{}.attn_out", i);
    const auto value = mx::slice(
        model.run(other, {.save = {site}})[site], {0, 0, 0}, {1, 7, 24});
    wanted.push_back(logit_of(model, prompt, 4, {{site, replace_with(value)}}));
  }
  const auto sweep = ablate(
      model,
      {.prompts = prompt,
       .site = "attn_out",
       .by = {Axis::layer},
       .metric = logit(4),
       .ablation = Ablation::resample,
       .data = Inputs(Inputs::Rows{other, {1, 2}, prompt})});
  expect_cells(sweep.metric, wanted, "resample");
}

TEST(Ablate, Misuse) {
  const auto model = test::tiny_model();
  const AblateOptions good{
      .prompts = prompt,
      .metric = logit(4),
      .data = Inputs(Inputs::Rows{prompt, prompt})};
  auto options = good;
  options.site = "pattern";
  EXPECT_THROW(ablate(model, options), Error);
  options = good;
  options.data = {};
  EXPECT_THROW(ablate(model, options), Error);  // a mean over itself
  options.data = Inputs(Inputs::Rows{{1, 2}, {3, 4}});
  EXPECT_THROW(ablate(model, options), Error);  // too short
  options = good;
  options.ablation = Ablation::resample;
  EXPECT_THROW(ablate(model, options), Error);  // no other prompt
  options.samples = 0;
  EXPECT_THROW(ablate(model, options), Error);
}

TEST(CausalTrace, EqualsPlainEdits) {
  const auto model = InterpretableModel::load("demo");
  const std::string text = "The Eiffel Tower is in";
  const auto ids = model.tokenizer().encode(text);
  const auto trace = causal_trace(
      model,
      {.prompt = text,
       .subject = "Eiffel Tower",
       .metric = logit(" Paris"),
       .site = "mlp_out",
       .window = 4,
       .samples = 1,
       .seed = 3,
       .layers = {0, 9, 29},
       .positions = {2, 3, -1}});
  EXPECT_EQ(trace.subject, (std::vector{1, 2, 3}));
  const auto run = model.run(
      ids, {.save = {"layers.0.resid_pre", "layers.*.mlp_out", "logits"}});
  const auto clean = run["layers.0.resid_pre"];
  const auto sigma =
      3 * mx::sqrt(mx::var(model.decoder().embed.weight)).item<float>();
  std::vector<float> where(ids.size());
  where[1] = where[2] = where[3] = sigma;
  const auto own = mx::random::split(mx::random::key(3)).second;
  const auto noise =
      mx::random::normal(clean.shape(), mx::float32, 0, 1, own) *
      mx::array(where.data(), {1, static_cast<int>(ids.size()), 1});
  const Edit drown{"layers.0.resid_pre", replace_with(clean + noise)};
  const int paris = model.tokenizer().single_token(" Paris");
  std::vector<float> wanted;
  for (const int p : {2, 3, -1})
    for (const int layer : {0, 9, 29}) {
      std::vector<Edit> edits = {drown};
      for (int i = std::max(0, layer - 1); i <= std::min(29, layer + 2); ++i) {
        const auto site = fmt::format("layers.{}.mlp_out", i);
        const auto value = run[site];
        const int at = p < 0 ? value.shape(1) + p : p;
        edits.push_back(
            {site,
             at_positions(
                 {at},
                 replace_with(mx::slice(
                     value, {0, at, 0}, {1, at + 1, value.shape(2)})))});
      }
      wanted.push_back(logit_of(model, ids, paris, edits));
    }
  ASSERT_EQ(trace.sweep.shape(), (std::vector{3, 3}));
  const auto flat = [](const std::vector<float>& values) {
    return mx::array(values.data(), {static_cast<int>(values.size())});
  };
  test::expect_close(
      flat(trace.sweep.metric), flat(wanted), 1e-4, 9, "causal trace");
  EXPECT_NEAR(trace.sweep.corrupt, logit_of(model, ids, paris, {drown}), 1e-4);
  EXPECT_GT(std::abs(trace.sweep.corrupt - trace.sweep.clean), 0.5);
}

TEST(CausalTrace, Misuse) {
  const auto model = InterpretableModel::load("demo");
  const auto message = [&](CausalTraceOptions options) -> std::string {
    try {
      causal_trace(model, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  const auto expect = [](const std::string& said, const char* part) {
    EXPECT_NE(said.find(part), std::string::npos) << said;
  };
  expect(
      message({.prompt = "The Eiffel Tower", .subject = "Big Ben"}),
      "'Big Ben' is not in the prompt");
  expect(message({.prompt = "The Eiffel Tower", .subject = ""}), "empty");
  expect(
      message({.prompt = "Eiffel", .subject = "Eiffel", .samples = 0}),
      "0 samples");
  expect(
      message({.prompt = "Eiffel", .subject = "Eiffel", .noise = NAN}),
      "corrupts nothing");
  expect(
      message({.prompt = "Eiffel", .subject = "Eiffel", .window = 0}),
      "a window of 0");
}

}  // namespace
}  // namespace mlxterp
