// What joins the scores of sources: the score of nothing, and the bias of their
// distance. On a small random decoder that has both, and windows.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "mlx/ops.h"
#include "mlxterp/nn/alibi.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using test::expect_close;

const std::vector<int> prompt = {3, 14, 15, 92, 65, 35, 89, 79, 3, 23};
constexpr int n = 10, heads = 6;

DecoderConfig config_of(bool sinks, bool alibi) {
  auto config = test::tiny_config();
  config.rope.dims = 0;
  config.windows = {0, 4, 0};
  config.attention_sinks = sinks;
  if (alibi) config.alibi.slopes = nn::alibi_slopes(heads);
  return config;
}

InterpretableModel model_of(bool sinks, bool alibi) {
  auto decoder = test::tiny_decoder(config_of(sinks, alibi));
  float value = -1.5f;
  for (int layer = 0; layer < decoder->config().n_layers; ++layer)
    if (auto& own = test::attention(*decoder, layer).sinks) {
      std::vector<float> each;
      for (int i = 0; i < heads; ++i)
        each.push_back(value += 0.25f);
      own = mx::array(each.data(), {heads});
    }
  return InterpretableModel(decoder, {}, families()[0].renames);
}

const std::vector<std::string> steps = {
    "position_bias", "scores", "sinks", "sink_share", "pattern", "z"};

std::vector<std::string> all_steps() {
  std::vector<std::string> names = {"logits"};
  for (const auto& step : steps)
    names.push_back("layers.*.attn." + step);
  return names;
}

// [batch, pos, head, 1] as it stands beside [batch, head, dest, src].
mx::array turned(const mx::array& x) {
  return mx::swapaxes(x, 1, 2);
}

TEST(Sinks, TakeTheirShareOfTheSoftmax) {
  const auto model = model_of(true, false);
  const auto run = model.run(
      prompt, {.save = {"layers.*.attn.{scores,sinks,sink_share,pattern}"}});
  for (int i = 0; i < 3; ++i) {
    const auto at = [&](const char* step) {
      return run[fmt::format("layers.{}.attn.{}", i, step)];
    };
    EXPECT_EQ(at("sinks").shape(), (mx::Shape{1, n, heads, 1}));
    EXPECT_EQ(at("sink_share").shape(), (mx::Shape{1, n, heads, 1}));
    const auto all = mx::softmax(
        mx::concatenate({at("scores"), turned(at("sinks"))}, -1), -1);
    const auto parts = mx::split(all, mx::Shape{n}, -1);
    expect_close(at("pattern"), parts[0], 1e-6, heads * n * n, "pattern");
    expect_close(turned(at("sink_share")), parts[1], 1e-6, heads * n, "share");
    EXPECT_GT(mx::min(at("sink_share")).item<float>(), 1e-3f);
  }
}

TEST(Sinks, EditsDoWhatTheSitesSay) {
  const auto model = model_of(true, false);
  const std::string layer = "layers.1.attn.";
  const auto save = std::vector<std::string>{
      "logits", layer + "{scores,sinks,sink_share,pattern}"};
  const auto plain = model.run(prompt, {.save = save});
  const auto run = [&](const std::string& step, const Intervention& edit) {
    return model.run(prompt, {.save = save, .edits = {{layer + step, edit}}});
  };
  const auto bare = mx::softmax(plain[layer + "scores"], -1);
  const auto off = mx::full(plain[layer + "sinks"].shape(), -1e9f, mx::float32);
  const auto without = run("sinks", replace_with(off));
  expect_close(
      without[layer + "pattern"], bare, 1e-6, heads * n * n, "no sinks");
  EXPECT_GT(test::max_difference(without["logits"], plain["logits"]), 1e-3);

  const auto none = run("sink_share", zero_out());
  expect_close(none[layer + "pattern"], bare, 1e-6, heads * n * n, "no share");
  expect_close(none["logits"], without["logits"], 1e-5, n * 97, "either way");
  const auto share =
      mx::full(plain[layer + "sinks"].shape(), 0.75f, mx::float32);
  expect_close(
      run("sink_share", replace_with(share))[layer + "pattern"],
      bare * mx::array(0.25f),
      1e-6,
      heads * n * n,
      "three quarters");
}

TEST(PositionBias, FallsWithTheDistance) {
  const auto model = model_of(false, true);
  const auto run =
      model.run(prompt, {.save = {"layers.1.attn.{position_bias,scores}"}});
  const auto bias = run["layers.1.attn.position_bias"];
  ASSERT_EQ(bias.shape(), (mx::Shape{1, heads, n, n}));
  // The paper's: 2^-2, 2^-4, 2^-6, 2^-8 of four heads, then 2^-1, 2^-3.
  const int powers[] = {2, 4, 6, 8, 1, 3};
  auto flat = mx::contiguous(bias);
  flat.eval();
  size_t compared = 0;
  for (int h = 0; h < heads; ++h)
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j, ++compared)
        EXPECT_EQ(
            flat.data<float>()[compared],
            j < i ? -std::ldexp(static_cast<float>(i - j), -powers[h]) : 0)
            << h << " " << i << " " << j;
  EXPECT_EQ(compared, 600u);

  // Without it, the model is the one that has none.
  const auto zeroed = model.run(
      prompt,
      {.save = {"logits"},
       .edits = {{"layers.*.attn.position_bias", zero_out()}}});
  const auto none = model_of(false, false).run(prompt, {.save = {"logits"}});
  expect_close(zeroed["logits"], none["logits"], 1e-5, n * 97, "no bias");
  const auto plain = model.run(prompt, {.save = {"logits"}});
  EXPECT_GT(test::max_difference(plain["logits"], none["logits"]), 1e-3);
}

float rounded(float x) {
  auto bits = std::bit_cast<uint32_t>(x);
  bits += 0x7fff + ((bits >> 16) & 1);
  return std::bit_cast<float>(bits & 0xffff0000u);
}

TEST(PositionBias, IsRoundedWhereTheModelRoundedIt) {
  const nn::Alibi alibi{
      .slopes = {0.7f, 0.01f}, .rounded = true, .scale = 0.5f};
  constexpr int dest = 3, src = 1000;
  const auto bias = alibi(dest, src);
  ASSERT_EQ(bias.shape(), (mx::Shape{2, dest, src}));
  auto dense = mx::contiguous(bias);
  dense.eval();
  size_t at = 0, apart = 0;
  for (const float slope : alibi.slopes)
    for (int i = src - dest; i < src; ++i)
      for (int j = 0; j < src; ++j, ++at) {
        const auto of = [&](int position) {
          return rounded(rounded(slope) * static_cast<float>(position));
        };
        const float wanted = j < i ? 0.5f * (of(j) - of(i)) : 0;
        EXPECT_FLOAT_EQ(dense.data<float>()[at], wanted) << slope << " " << i;
        const auto behind = static_cast<float>(std::min(j - i, 0));
        apart += std::abs(wanted - 0.5f * slope * behind) > 0.01f;
      }
  EXPECT_EQ(at, bias.size());
  EXPECT_GT(apart, 1000u);
}

TEST(Sinks, EverySiteBetweenSetToItselfChangesNothing) {
  for (const bool sinks : {false, true})
    for (const bool alibi : {false, true}) {
      const auto model = model_of(sinks, alibi);
      auto names = all_steps();
      std::erase_if(names, [&](const std::string& name) {
        return !model.sites().contains(name);
      });
      EXPECT_EQ(names.size(), 4u + (sinks ? 2 : 0) + (alibi ? 1 : 0));
      const auto run = model.run(prompt, {.save = names});
      size_t patched = 0;
      for (const auto& [site, value] : run) {
        if (site == "logits") continue;
        const auto again = model.run(
            prompt,
            {.save = {"logits"}, .edits = {{site, replace_with(value)}}});
        expect_close(again["logits"], run["logits"], 1e-5, n * 97, site);
        ++patched;
      }
      EXPECT_EQ(patched, 3 * (names.size() - 1));
    }
}

TEST(Sinks, APassInPiecesIsTheWhole) {
  const auto model = model_of(true, true);
  const auto whole = model.run(prompt, {.save = all_steps()});
  nn::KvCache cache;
  std::vector<mx::array> logits;
  for (const int end : {4, 5, n}) {
    const int begin = cache.positions();
    const std::vector<int> piece(prompt.begin() + begin, prompt.begin() + end);
    const auto run = model.run(piece, {.save = all_steps(), .cache = &cache});
    logits.push_back(run["logits"]);
    for (const auto* step : {"position_bias", "pattern"}) {
      const auto site = fmt::format("layers.2.attn.{}", step);
      expect_close(
          run[site],
          mx::slice(whole[site], {0, 0, begin, 0}, {1, heads, end, end}),
          1e-5,
          static_cast<size_t>(heads * (end - begin) * end),
          site);
    }
  }
  expect_close(
      mx::concatenate(logits, 1), whole["logits"], 1e-5, n * 97, "pieces");
}

}  // namespace
}  // namespace mlxterp
