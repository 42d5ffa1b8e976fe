// Ablation and causal tracing against forward passes with plain edits.

#include "mlxterp/analysis/ablate.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

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

  // Which one, the seed says.
  const auto with = [&](uint64_t seed) {
    return ablate(
               model,
               {.prompts = prompt,
                .site = "attn_out",
                .by = {Axis::layer},
                .metric = logit(4),
                .ablation = Ablation::resample,
                .data = Inputs(Inputs::Rows{other, {9, 8, 7, 6, 5, 4, 3}}),
                .seed = seed})
        .metric;
  };
  std::vector<std::vector<float>> seen;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const auto metric = with(seed);
    expect_cells(with(seed), metric, "the same seed");
    const auto known = [&](const auto& one) {
      return std::abs(one[0] - metric[0]) < 1e-4f;
    };
    if (std::ranges::none_of(seen, known)) seen.push_back(metric);
  }
  EXPECT_EQ(seen.size(), 2u);
}

TEST(Ablate, Misuse) {
  const auto model = test::tiny_model();
  const AblateOptions good{
      .prompts = prompt,
      .metric = logit(4),
      .data = Inputs(Inputs::Rows{prompt, {9, 8, 7, 6, 5, 4, 3}})};
  const auto with = [&](auto change) -> std::string {
    auto options = good;
    change(options);
    try {
      ablate(model, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  const auto expect = [](const std::string& said, const char* part) {
    EXPECT_NE(said.find(part), std::string::npos) << said;
  };
  // Each is right but for one thing.
  EXPECT_EQ(with([](auto&) {}), "nothing");
  EXPECT_EQ(with([](auto& o) { o.ablation = Ablation::resample; }), "nothing");
  expect(
      with([](auto& o) { o.site = "pattern"; }),
      "'attn.pattern' cannot be ablated");
  expect(
      with([](auto& o) { o.site = "resid_post"; }),
      "'resid_post' cannot be ablated");
  expect(
      with([](auto& o) { o.data = std::nullopt; }),
      "a mean over 1 prompt changes nothing");
  expect(
      with([](auto& o) {
        o.data = std::nullopt;
        o.ablation = Ablation::resample;
      }),
      "resampling over 1 prompt changes nothing");
  expect(
      with([](auto& o) {
        o.data = Inputs(Inputs::Rows{{1, 2}, {3, 4}});
      }),
      "prompt 0 has 7 tokens, and no prompt of the data is that long");
  expect(
      with([](auto& o) {
        o.data = Inputs(Inputs::Rows{prompt, prompt});
        o.ablation = Ablation::resample;
      }),
      "no other prompt of the data is that long");
  for (const int samples : {0, -1})
    expect(
        with([&](auto& o) { o.samples = samples; }),
        "samples; use at least one");
}

// By every axis and kind, of a metric that reads one token, the whole
// vocabulary or every position.
TEST(Ablate, PlainPassesSayTheSame) {
  for (const auto& variant : {"llama-gqa", "gemma2"}) {
    const auto model =
        InterpretableModel::load((test::families_root / variant).string());
    AblateOptions options{
        .prompts = Inputs::Rows{prompt, {1, 4, 9, 16, 25, 36, 49}}};
    for (const auto& metric : {logit(4), kl_divergence(), loss()})
      for (const auto ablation :
           {Ablation::zero, Ablation::mean, Ablation::resample})
        for (const auto* site : {"resid_pre", "z", "mlp.post"}) {
          options.metric = metric;
          options.ablation = ablation;
          options.site = site;
          options.by = {Axis::layer, Axis::position};
          options.one_pass_per_cell = false;
          const auto fast = ablate(model, options);
          options.one_pass_per_cell = true;
          const auto plain = ablate(model, options);
          expect_cells(
              fast.metric,
              plain.metric,
              fmt::format("{} {} {}", variant, metric.name, site));
          EXPECT_NEAR(fast.clean, plain.clean, 1e-4);
          EXPECT_EQ(
              static_cast<int>(fast.cells()),
              7 * model.decoder().config().n_layers);
        }
  }
}

// One pass a cell and sample, mlp_out restored.
void expect_plain(
    const InterpretableModel& model,
    const CausalTraceOptions& options,
    int token,
    const std::vector<int>& subject) {
  const auto trace = causal_trace(model, options);
  EXPECT_EQ(trace.subject, subject);
  const auto ids = model.token_ids(options.prompt)[0];
  const int layers = model.decoder().config().n_layers;
  const auto run =
      model.run(ids, {.save = {"layers.0.resid_pre", "layers.*.mlp_out"}});
  const auto clean = run["layers.0.resid_pre"];
  // Of what the embedding gives, whatever the model multiplies it by.
  std::vector<int> every(static_cast<size_t>(model.decoder().config().vocab));
  std::iota(every.begin(), every.end(), 0);
  Pass pass;
  const auto given = model.decoder().embedded(
      mx::array(every.data(), {1, static_cast<int>(every.size())}, mx::int32),
      pass);
  const auto sigma = options.noise * mx::sqrt(mx::var(given)).item<float>();
  std::vector<float> where(ids.size());
  for (const int p : subject)
    where[static_cast<size_t>(p)] = sigma;
  const size_t cells = options.positions.size() * options.layers.size();
  std::vector<float> sums(cells), squares(cells);
  float corrupt = 0;
  auto key = mx::random::key(options.seed);
  for (int s = 0; s < options.samples; ++s) {
    const auto [next, own] = mx::random::split(key);
    key = next;
    const auto noise =
        mx::random::normal(clean.shape(), mx::float32, 0, 1, own) *
        mx::array(where.data(), {1, static_cast<int>(ids.size()), 1});
    const Edit drown{"layers.0.resid_pre", replace_with(clean + noise)};
    corrupt += logit_of(model, ids, token, {drown});
    size_t cell = 0;
    for (const int p : options.positions)
      for (const int layer : options.layers) {
        std::vector<Edit> edits = {drown};
        const int first = std::max(0, layer - (options.window - 1) / 2);
        const int last = std::min(layers - 1, layer + options.window / 2);
        for (int i = first; i <= last; ++i) {
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
        const float value = logit_of(model, ids, token, edits);
        sums[cell] += value;
        squares[cell++] += value * value;
      }
  }
  const auto n = static_cast<float>(options.samples);
  std::vector<float> means, spreads;
  for (size_t i = 0; i < cells; ++i) {
    means.push_back(sums[i] / n);
    spreads.push_back(
        std::sqrt(std::max(0.0f, squares[i] / n - means[i] * means[i])));
  }
  ASSERT_EQ(trace.sweep.cells(), cells);
  const auto flat = [](const std::vector<float>& values) {
    return mx::array(values.data(), {static_cast<int>(values.size())});
  };
  test::expect_close(
      flat(trace.sweep.metric), flat(means), 1e-4, cells, "causal trace");
  test::expect_close(
      flat(trace.sweep.spread), flat(spreads), 3e-3, cells, "spread");
  EXPECT_EQ(spreads[0] > 0.03f, options.samples > 1);
  EXPECT_NEAR(trace.sweep.corrupt, corrupt / n, 1e-4);
  EXPECT_GT(std::abs(trace.sweep.corrupt - trace.sweep.clean), 0.01);
}

TEST(CausalTrace, EqualsPlainEdits) {
  const auto model = InterpretableModel::load("demo");
  expect_plain(
      model,
      {.prompt = "The Eiffel Tower is in",
       .subject = "Eiffel Tower",
       .metric = logit(" Paris"),
       .site = "mlp_out",
       .window = 4,
       .samples = 1,
       .seed = 3,
       .layers = {0, 9, 29},
       .positions = {2, 3, -1}},
      model.tokenizer().single_token(" Paris"),
      {1, 2, 3});
}

// Gemma scales what it embeds, Granite multiplies it behind that.
TEST(CausalTrace, NoiseIsAsLoudAsTheModelEmbeds) {
  const auto tokenizer = InterpretableModel::load("demo").tokenizer();
  for (const auto& [scale, factor] :
       {std::pair{4.9f, 1.0f}, {1.0f, 12.0f}, {0.5f, 3.0f}}) {
    auto config = test::tiny_config();
    config.vocab = tokenizer.vocab_size();
    config.embed_scale = scale;
    config.embed_factor = factor;
    const InterpretableModel model(
        test::tiny_decoder(config), tokenizer, families()[0].renames);
    expect_plain(
        model,
        {.prompt = "The Eiffel Tower is in",
         .subject = "Eiffel Tower",
         .metric = logit(7),
         .site = "mlp_out",
         .window = 1,
         .samples = 2,
         .seed = 4,
         .layers = {0, 1, 2},
         .positions = {1, 3, -1}},
        7,
        {1, 2, 3});
  }
}

// Of several runs at once, also where scores are capped. At a single position
// the cells of all runs lie side by side.
TEST(CausalTrace, SamplesAreAveraged) {
  const auto tokenizer = InterpretableModel::load("demo").tokenizer();
  auto config = test::tiny_config();
  config.vocab = tokenizer.vocab_size();
  for (const float softcap : {0.0f, 5.0f})
    for (const auto& positions : {std::vector{1, 2, 3, -1}, std::vector{3}}) {
      config.attention_softcap = softcap;
      const InterpretableModel model(
          test::tiny_decoder(config), tokenizer, families()[0].renames);
      expect_plain(
          model,
          {.prompt = "The Eiffel Tower is in",
           .subject = "Eiffel Tower",
           .metric = logit(7),
           .site = "mlp_out",
           .window = 1,
           .noise = 2,
           .samples = 3,
           .seed = 4,
           .layers = {0, 1, 2},
           .positions = positions},
          7,
          {1, 2, 3});
    }
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
