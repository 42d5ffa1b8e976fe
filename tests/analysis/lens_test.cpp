#include "mlxterp/analysis/lens.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "mlxterp/core/paths.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mx = mlx::core;

namespace mlxterp {
namespace {

constexpr int vocab = 97;
const std::vector<int> prompt = {5, 17, 3, 96, 0};

InterpretableModel tiny() {
  return test::tiny_model();
}

std::vector<float> floats(const mx::array& x) {
  auto flat = mx::contiguous(mx::astype(mx::flatten(x), mx::float32));
  flat.eval();
  return {flat.data<float>(), flat.data<float>() + flat.size()};
}

ErrorKind kind_of(const LensOptions& options) {
  try {
    logit_lens(tiny(), prompt, options);
  } catch (const Error& error) {
    return error.kind();
  }
  ADD_FAILURE() << "nothing was thrown";
  return ErrorKind::environment;
}

TEST(LogitLens, EqualsACellByCellComputation) {
  const auto model = tiny();
  const int track = 42;
  const auto lens =
      logit_lens(model, prompt, {.embed = true, .top_k = 4, .track = track});
  ASSERT_EQ(lens.rows(), 4u);
  ASSERT_EQ(lens.columns(), prompt.size());
  EXPECT_EQ(lens.ids, prompt);
  EXPECT_FALSE(lens.layers[0]);
  EXPECT_EQ(lens.sites[0], "layers.0.resid_pre");

  const auto run = model.run(prompt, {.save = lens.sites});
  for (size_t row = 0; row < lens.rows(); ++row) {
    for (size_t pos = 0; pos < lens.columns(); ++pos) {
      const auto cell = lens.cell(row, pos);
      const auto residual =
          mx::take(run[lens.sites[row]], mx::array({static_cast<int>(pos)}), 1);
      Pass pass;
      const auto logits = floats(model.decoder().unembed(
          model.decoder().ln_final(residual, pass), pass));
      std::vector<int> order(vocab);
      for (int i = 0; i < vocab; ++i)
        order[static_cast<size_t>(i)] = i;
      const auto at = [&](int id) { return logits[static_cast<size_t>(id)]; };
      std::sort(order.begin(), order.end(), [&](int a, int b) {
        return at(a) > at(b);
      });
      double total = 0;
      for (const float x : logits)
        total += std::exp(static_cast<double>(x));
      for (size_t k = 0; k < 4; ++k) {
        // Of two that are equal to the last bits, either may be ahead.
        EXPECT_NEAR(at(lens.top_ids[cell * 4 + k]), at(order[k]), 1e-5);
        EXPECT_NEAR(lens.top_logits[cell * 4 + k], at(order[k]), 1e-5);
        EXPECT_NEAR(
            lens.top_probabilities[cell * 4 + k],
            std::exp(static_cast<double>(at(order[k]))) / total,
            1e-6);
      }
      EXPECT_NEAR(
          at(order[static_cast<size_t>(lens.track_ranks[cell])]),
          at(track),
          1e-5);
      EXPECT_NEAR(lens.track_logits[cell], at(track), 1e-5);
      EXPECT_NEAR(
          lens.track_probabilities[cell],
          std::exp(static_cast<double>(at(track))) / total,
          1e-6);
    }
  }
}

TEST(LogitLens, LastRowIsTheModelsOwnPrediction) {
  const auto model = tiny();
  const auto lens = logit_lens(model, prompt, {.top_k = vocab});
  const auto logits = floats(model(prompt));
  for (size_t pos = 0; pos < prompt.size(); ++pos)
    for (size_t k = 0; k < vocab; ++k) {
      const auto i = lens.cell(2, pos) * vocab + k;
      const auto id = static_cast<size_t>(lens.top_ids[i]);
      EXPECT_NEAR(lens.top_logits[i], logits[pos * vocab + id], 1e-5);
    }
}

TEST(LogitLens, ChoosesLayersAndPositionsAsSets) {
  const auto model = tiny();
  const auto all = logit_lens(model, prompt);
  const auto some = logit_lens(
      model, prompt, {.layers = {-1, 0, 0}, .positions = {3, -5, 0}});
  EXPECT_EQ(some.layers, (std::vector<std::optional<int>>{0, 2}));
  EXPECT_EQ(some.positions, (std::vector<int>{0, 3}));
  EXPECT_EQ(some.winner(1, 1), all.winner(2, 3));
  EXPECT_EQ(some.winner(0, 0), all.winner(0, 0));
}

TEST(LogitLens, ReadsAnEditedRun) {
  const auto model = tiny();
  const std::vector<Edit> edits = {{"layers.1.mlp_out", scale(0.0f)}};
  const auto plain = logit_lens(model, prompt);
  const auto edited = logit_lens(model, prompt, {.edits = edits});
  const auto row = [&](const Lens& lens, size_t i) {
    const auto begin = lens.top_logits.begin() +
                       static_cast<long>(lens.cell(i, 0)) * lens.top_k;
    return mx::array(begin, {static_cast<int>(lens.columns()) * lens.top_k});
  };
  const auto moved = [&](size_t i) {
    return test::max_difference(row(plain, i), row(edited, i));
  };
  EXPECT_LE(moved(0), 1e-5);
  EXPECT_GT(moved(1), 1e-3);
}

TEST(LogitLens, ReadsAnyResidualSite) {
  const auto model = tiny();
  const auto post = logit_lens(model, prompt, {.embed = true});
  // What enters a layer is what the one before it left.
  const auto pre =
      logit_lens(model, prompt, {.embed = true, .site = "resid_pre"});
  ASSERT_EQ(pre.rows(), 3u);
  EXPECT_EQ(pre.sites[2], "layers.2.resid_pre");
  for (size_t i = 0; i < pre.top_ids.size(); ++i)
    EXPECT_NEAR(pre.top_logits[i], post.top_logits[i], 1e-5);
  const auto run = model.run(prompt, {.save = {"layers.1.*"}});
  for (const auto* site : {"resid_mid", "attn_out", "mlp_out"}) {
    const auto lens =
        logit_lens(model, prompt, {.layers = {1}, .site = site, .top_k = 1});
    const auto value = run[std::string("layers.1.") + site];
    Pass pass;
    const auto logits =
        model.decoder().unembed(model.decoder().ln_final(value, pass), pass);
    const auto winners = mx::squeeze(mx::argmax(logits, -1), 0);
    for (size_t p = 0; p < lens.columns(); ++p)
      EXPECT_EQ(
          lens.winner(0, p),
          static_cast<int>(
              mx::take(winners, static_cast<int>(p), 0).item<uint32_t>()))
          << site;
  }
  EXPECT_EQ(kind_of({.site = "attn.z"}), ErrorKind::usage);
}

TEST(LogitLens, RefusesWhatIsOutOfRange) {
  EXPECT_EQ(kind_of({.layers = {3}}), ErrorKind::out_of_range);
  EXPECT_EQ(kind_of({.layers = {-4}}), ErrorKind::out_of_range);
  EXPECT_EQ(kind_of({.positions = {5}}), ErrorKind::out_of_range);
  EXPECT_EQ(kind_of({.positions = {-6}}), ErrorKind::out_of_range);
  EXPECT_EQ(kind_of({.top_k = 0}), ErrorKind::out_of_range);
  EXPECT_EQ(kind_of({.top_k = vocab + 1}), ErrorKind::out_of_range);
  EXPECT_EQ(kind_of({.track = vocab}), ErrorKind::out_of_range);
  EXPECT_EQ(kind_of({.track = -1}), ErrorKind::out_of_range);
  EXPECT_THROW(
      logit_lens(tiny(), Inputs::Rows{{1, 2}, {3}}, LensOptions{}), Error);
}

TEST(LogitLens, EditsOfTheHeadHoldForEveryLayer) {
  const auto model = tiny();
  const std::vector<Edit> edits = {
      {"ln_final.scale", at_positions({-1}, scale(2.0f))},
      {"logits", [](const mx::array& x) {
         return mx::add(x, mx::expand_dims(mx::mean(x, 1), 1));
       }}};
  const auto lens = logit_lens(model, prompt, {.top_k = 1, .edits = edits});
  const auto logits =
      model.run(prompt, {.save = {"logits"}, .edits = edits})["logits"];
  const auto last = lens.rows() - 1;
  size_t compared = 0;
  for (size_t p = 0; p < lens.columns(); ++p, ++compared) {
    const auto row = mx::take(mx::squeeze(logits, 0), static_cast<int>(p), 0);
    EXPECT_NEAR(
        lens.top_logits[lens.cell(last, p)], mx::max(row).item<float>(), 1e-4);
  }
  EXPECT_EQ(compared, lens.ids.size());
}

TEST(LogitLens, ReportsWhatIsNotFinite) {
  // Two large values overflow in the stream.
  const auto lens = logit_lens(
      tiny(),
      prompt,
      {.track = 1,
       .edits = {
           {"layers.2.{attn_out,mlp_out}",
            at_positions({2}, replace_with(3e38f))}}});
  EXPECT_GE(lens.winner(1, 2), 0);
  EXPECT_EQ(lens.winner(2, 2), -1);
  EXPECT_TRUE(std::isnan(lens.track_probabilities[lens.cell(2, 2)]));
  EXPECT_EQ(lens.track_ranks[lens.cell(2, 2)], -1);
}

TEST(LogitLens, TellsFromWhereTheTrackedTokenStaysOnTop) {
  Lens lens;
  lens.layers = {0, 1, 2, 3};
  lens.positions = {0};
  EXPECT_THROW(lens.on_top_from(0), Error);
  lens.track = 9;
  lens.track_ranks = {0, 3, 0, 0};
  EXPECT_EQ(lens.on_top_from(0), 2u);
  lens.track_ranks = {0, 0, 0, 1};
  EXPECT_EQ(lens.on_top_from(0), std::nullopt);
  EXPECT_THROW(lens.on_top_from(1), Error);
}

TEST(TopTokens, OrdersTiesById) {
  const std::vector<float> logits = {1, 3, 3, 2, -INFINITY};
  const auto top = top_tokens(logits, 5);
  EXPECT_EQ(top.ids, (std::vector<int>{1, 2, 3, 0, 4}));
  EXPECT_EQ(top.probabilities[4], 0.0f);
  float sum = 0;
  for (const float p : top.probabilities)
    sum += p;
  EXPECT_NEAR(sum, 1, 1e-6);
}

TEST(TopTokens, NeverLetsANaNWin) {
  for (const float bad : {NAN, INFINITY}) {
    const std::vector<float> logits = {1, bad, 3};
    const auto top = top_tokens(logits, 2);
    EXPECT_EQ(top.ids, (std::vector<int>{-1, -1}));
    EXPECT_TRUE(std::isnan(top.probabilities[0]));
  }
}

TEST(LogitLens, AgreesWithTransformersOnTheDemoModel) {
  ASSERT_TRUE(std::filesystem::exists(demo_model_path()))
      << "the demo model is missing; run make demo";
  const auto model = InterpretableModel::load("demo", {.dtype = mx::float32});
  const int paris = model.tokenizer().single_token(" Paris");
  const auto lens = logit_lens(
      model,
      "The Eiffel Tower is located in the city of",
      {.top_k = 5, .track = paris});
  ASSERT_EQ(
      lens.ids,
      (std::vector<int>{
          504, 414, 46682, 18669, 314, 3807, 281, 260, 2240, 282}));
  const auto last = lens.cell(lens.rows() - 1, lens.columns() - 1);
  const char* tokens[] = {" Paris", " Mont", " Mar", " T", " La"};
  const float logits[] = {12.8419f, 9.6438f, 9.6156f, 9.5936f, 9.5582f};
  for (size_t k = 0; k < 5; ++k) {
    const int id = lens.top_ids[last * 5 + k];
    EXPECT_EQ(model.tokenizer().decode(std::vector{id}), tokens[k]);
    EXPECT_NEAR(lens.top_logits[last * 5 + k], logits[k], 1e-3);
  }
  EXPECT_EQ(lens.track_ranks[last], 0);
  EXPECT_TRUE(lens.on_top_from(lens.columns() - 1));
}

}  // namespace
}  // namespace mlxterp
