#include "mlxterp/analysis/tuned_lens.h"

#include <gtest/gtest.h>

#include <cmath>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/npz.h"
#include "tests/compare.h"
#include "tests/temp_folder.h"
#include "tests/tiny_model.h"

namespace mx = mlx::core;

namespace mlxterp {
namespace {

using testing::TempFolder;

// A random text.
std::vector<int> text(int n, uint64_t seed) {
  auto drawn =
      mx::random::randint(0, 97, {n}, mx::int32, mx::random::key(seed));
  drawn.eval();
  return {drawn.data<int>(), drawn.data<int>() + n};
}

// But for the last layer, or that too.
TunedLens shifted(int layers, int d_model, bool last = false) {
  TunedLens lens(layers, d_model);
  mx::random::seed(3);
  for (int i = 0; i < (last ? layers : layers - 1); ++i) {
    auto& weight = lens.weights[static_cast<size_t>(i)];
    weight = mx::add(
        weight,
        mx::multiply(mx::array(0.1f), mx::random::normal(weight.shape())));
    lens.biases[static_cast<size_t>(i)] = mx::random::normal({d_model});
  }
  for (auto* all : {&lens.weights, &lens.biases})
    mx::eval(*all);
  return lens;
}

TEST(TunedLens, BeginsAsTheLogitLens) {
  const auto model = test::tiny_model();
  const auto lens = TunedLens(3, 24);
  const std::vector<int> prompt = {5, 17, 3, 96, 0};
  const auto plain = logit_lens(model, prompt, {.embed = true});
  const auto tuned = logit_lens(model, prompt, {.embed = true, .tuned = &lens});
  ASSERT_EQ(plain.top_logits.size(), tuned.top_logits.size());
  for (size_t i = 0; i < plain.top_logits.size(); ++i)
    EXPECT_NEAR(plain.top_logits[i], tuned.top_logits[i], 1e-5);
  const auto scores = evaluate_lens(model, text(100, 1), &lens, 40);
  EXPECT_EQ(scores.positions, 100u);
  ASSERT_EQ(scores.tuned.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(scores.tuned[i].kl, scores.logit[i].kl, 1e-5);
    EXPECT_NEAR(
        scores.tuned[i].cross_entropy, scores.logit[i].cross_entropy, 1e-5);
  }
  EXPECT_NEAR(scores.logit[2].kl, 0, 1e-5);
  EXPECT_EQ(scores.logit[2].agreement, 1);
  EXPECT_NEAR(scores.logit[2].cross_entropy, scores.cross_entropy, 1e-5);
}

// Losses and updates of three steps against a plain reading of the definition:
// all layers and positions in one graph, SGD written out.
TEST(TunedLens, StepsFollowTheDefinition) {
  const auto model = test::tiny_model();
  const auto& decoder = model.decoder();
  const auto ids = text(48, 2);
  const float rate = 0.7f, momentum = 0.9f, clip = 0.05f;
  std::vector<float> losses;
  const auto lens = train_tuned_lens(
      model,
      ids,
      {.steps = 3,
       .learning_rate = rate,
       .momentum = momentum,
       .clip = clip,
       .length = 16,
       .on_step = [&](int, float loss) { losses.push_back(loss); }});

  // Of layers 0 and 1; the last one is the model.
  const TunedLens plain(3, 24);
  std::vector<mx::array> parameters = {
      plain.weights[0], plain.weights[1], plain.biases[0], plain.biases[1]};
  std::vector<mx::array> velocity;
  for (int step = 0; step < 3; ++step) {
    const std::vector<int> some(
        ids.begin() + 16 * step, ids.begin() + 16 * (step + 1));
    const auto run =
        model.run(some, {.save = {"layers.*.resid_post", "logits"}});
    const auto log_softmax = [](const mx::array& x) {
      return mx::subtract(x, mx::logsumexp(x, -1, true));
    };
    const auto log_p = log_softmax(run["logits"]);
    const auto loss = [&](const std::vector<mx::array>& all) {
      auto sum = mx::array(0.0f);
      for (size_t i = 0; i < 2; ++i) {
        Pass pass;
        const auto h = run["layers." + std::to_string(i) + ".resid_post"];
        const auto log_q = log_softmax(decoder.unembed(
            decoder.ln_final(
                mx::add(mx::matmul(h, mx::transpose(all[i])), all[i + 2]),
                pass),
            pass));
        sum = mx::add(
            sum,
            mx::mean(mx::sum(
                mx::multiply(mx::exp(log_p), mx::subtract(log_p, log_q)), -1)));
      }
      return std::vector<mx::array>{mx::divide(sum, mx::array(2.0f))};
    };
    auto [value, slopes] =
        mx::value_and_grad(loss, std::vector{0, 1, 2, 3})(parameters);
    auto squares = mx::array(0.0f);
    for (const auto& slope : slopes)
      squares = mx::add(squares, mx::sum(mx::square(slope)));
    const float norm = std::sqrt(squares.item<float>());
    const float factor = norm > clip ? clip / (norm + 1e-6f) : 1;
    const float now = rate * (1 - static_cast<float>(step) / 3);
    for (size_t i = 0; i < 4; ++i) {
      const auto g = mx::multiply(slopes[i], mx::array(factor));
      if (step == 0)
        velocity.push_back(g);
      else
        velocity[i] =
            mx::add(mx::multiply(velocity[i], mx::array(momentum)), g);
      parameters[i] = mx::subtract(
          parameters[i],
          mx::multiply(
              mx::array(now),
              mx::add(g, mx::multiply(velocity[i], mx::array(momentum)))));
    }
    EXPECT_NEAR(
        losses[static_cast<size_t>(step)], value[0].item<float>(), 1e-5);
  }
  for (size_t i = 0; i < 2; ++i) {
    test::expect_close(lens.weights[i], parameters[i], 1e-5, 24 * 24, "weight");
    test::expect_close(lens.biases[i], parameters[i + 2], 1e-5, 24, "bias");
  }
  test::expect_identical(lens.weights[2], mx::eye(24), "the last weight");
  test::expect_identical(lens.biases[2], mx::zeros({24}), "the last bias");
  EXPECT_GT(test::max_difference(lens.biases[0], mx::zeros({24})), 1e-3);
}

TEST(TunedLens, LearnsAndGeneralises) {
  const auto model = test::tiny_model();
  const auto lens =
      train_tuned_lens(model, text(2000, 1), {.steps = 250, .length = 60});
  const auto scores = evaluate_lens(model, text(300, 2), &lens, 60);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_LT(scores.tuned[i].kl, 0.8f * scores.logit[i].kl) << i;
    EXPECT_GT(scores.tuned[i].agreement, scores.logit[i].agreement) << i;
  }
  // Trained or not, the last layer is the model.
  EXPECT_EQ(scores.tuned[2].kl, scores.logit[2].kl);
  EXPECT_EQ(scores.tuned[2].agreement, 1);
}

// What the model says is in the last row, whatever stands in the translators.
TEST(TunedLens, LeavesTheLastLayerAsItIs) {
  const auto model = test::tiny_model();
  const auto lens = shifted(3, 24, /*last=*/true);
  const std::vector<int> prompt = {5, 17, 3, 96, 0};
  const auto plain = logit_lens(model, prompt);
  const auto tuned = logit_lens(model, prompt, {.tuned = &lens});
  ASSERT_EQ(tuned.rows(), 3u);
  ASSERT_EQ(tuned.top_logits.size(), plain.top_logits.size());
  const auto logits = model(prompt);
  for (size_t column = 0; column < prompt.size(); ++column) {
    const auto cell = tuned.cell(2, column) * tuned.top_k;
    EXPECT_EQ(tuned.winner(2, column), plain.winner(2, column));
    EXPECT_NEAR(
        tuned.top_logits[cell],
        mx::max(mx::take(logits, static_cast<int>(column), 1)).item<float>(),
        1e-5);
  }
  // And the layers below are translated.
  EXPECT_GT(std::abs(tuned.top_logits[0] - plain.top_logits[0]), 1e-3);
  const auto scores = evaluate_lens(model, text(60, 1), &lens, 60);
  EXPECT_NEAR(scores.tuned[2].kl, 0, 1e-5);
  EXPECT_GT(scores.tuned[0].kl, 1e-3);
  const auto h = mx::random::normal({4, 24});
  test::expect_identical(lens(h, 2), h, "last layer");
  EXPECT_GT(test::max_difference(lens(h, 1), h), 1e-2);
}

TEST(TunedLens, ComesBackFromItsFiles) {
  const TempFolder folder;
  const auto lens = shifted(2, 5);
  lens.save(folder / "lens");
  EXPECT_EQ(folder.files(), 2u);
  for (const auto* path : {"lens", "lens.npz", "lens.json"}) {
    const auto back = TunedLens::load(folder / path);
    ASSERT_EQ(back.layers(), 2);
    for (size_t i = 0; i < 2; ++i) {
      test::expect_identical(back.weights[i], lens.weights[i], "weight");
      test::expect_identical(back.biases[i], lens.biases[i], "bias");
    }
  }
  EXPECT_THROW(lens.save(folder / "lens.npz"), Error);
  lens.save(
      folder / "lens",
      /*overwrite=*/true);
  // Nothing is said of a last layer that is the identity.
  TunedLens::load(folder / "lens", [](std::string_view sentence) {
    ADD_FAILURE() << sentence;
  });
}

// Files of mlxterp 0.1: TunedLens(2, 3) with weight[i] = arange(9) / 8 + i and
// bias[i] = arange(3) - i, saved. It trained the last layer too.
TEST(TunedLens, ReadsUpstreamsFiles) {
  std::vector<std::string> told;
  const auto lens = TunedLens::load(
      MLXTERP_SOURCE_DIR "/tests/analysis/fixtures/lens.npz",
      [&](std::string_view sentence) { told.emplace_back(sentence); });
  ASSERT_EQ(lens.layers(), 2);
  test::expect_identical(
      lens.weights[0],
      mx::reshape(
          mx::divide(mx::arange(9.0f, mx::float32), mx::array(8.0f)), {3, 3}),
      "weight");
  test::expect_identical(lens.biases[0], mx::arange(3.0f, mx::float32), "bias");
  test::expect_identical(lens.weights[1], mx::eye(3), "the last weight");
  test::expect_identical(lens.biases[1], mx::zeros({3}), "the last bias");
  ASSERT_EQ(told.size(), 1u);
  EXPECT_NE(
      told[0].find("a translator for layer 1, the last one; it is ignored"),
      std::string::npos)
      << told[0];
}

TEST(TunedLens, RefusesBadFiles) {
  const TempFolder folder;
  const auto path = folder / "lens";
  const auto message = [&] {
    try {
      TunedLens::load(path);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_data) << error.what();
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  const auto says = [&](const char* part) {
    EXPECT_NE(message().find(part), std::string::npos) << message();
  };
  const auto good = shifted(2, 5);
  const auto with = [&](std::vector<std::pair<std::string, mx::array>> arrays) {
    save_npz(folder / "lens.npz", arrays, true);
  };
  good.save(path);
  for (const auto* json :
       {"[]",
        "{}",
        "{\"num_layers\": 2}",
        "{\"num_layers\": 2.5}",
        "{",
        "{\"num_layers\": 0, \"hidden_dim\": 5}",
        "{\"num_layers\": 2, \"hidden_dim\": 99999999}"}) {
    folder.write("lens.json", json);
    says("lens.json");
  }
  folder.write("lens.json", "{\"num_layers\": 3, \"hidden_dim\": 5}");
  says("translators_2_weight");
  folder.write("lens.json", "{\"num_layers\": 2, \"hidden_dim\": 6}");
  says("translators_0_weight");
  folder.write("lens.json", "{\"num_layers\": 1, \"hidden_dim\": 2}");
  with(
      {{"translators_0_weight", mx::zeros({2, 2}, mx::int32)},
       {"translators_0_bias", mx::zeros({2})}});
  says("floating-point");
  with(
      {{"translators_0_weight", mx::full({2, 2}, NAN)},
       {"translators_0_bias", mx::zeros({2})}});
  says("NaN");
  folder.write("lens.npz", "PK nonsense");
  says("lens.npz");
}

TEST(TunedLens, RefusesWhatDoesNotFit) {
  const auto model = test::tiny_model();
  const auto other = TunedLens(3, 23);
  EXPECT_THROW(logit_lens(model, {1, 2}, {.tuned = &other}), Error);
  EXPECT_THROW(evaluate_lens(model, text(9, 1), &other, 4), Error);
  const TunedLens lens(3, 24);
  EXPECT_THROW(
      logit_lens(model, {1, 2}, {.site = "resid_pre", .tuned = &lens}), Error);
  EXPECT_THROW(lens(mx::zeros({2, 24}), 3), Error);
  EXPECT_THROW(lens(mx::zeros({2, 23}), 0), Error);
  EXPECT_THROW(TunedLens(0, 3), Error);
  const auto train = [&](const TunedLensOptions& options) {
    train_tuned_lens(model, text(20, 1), options);
  };
  EXPECT_THROW(train({.length = 21}), Error);
  EXPECT_THROW(train({.length = 65}), Error);
  EXPECT_THROW(train({.length = 1}), Error);
  EXPECT_THROW(train({.steps = 0, .length = 9}), Error);
  EXPECT_THROW(train({.learning_rate = NAN, .length = 9}), Error);
  EXPECT_THROW(train({.momentum = 1.0f, .length = 9}), Error);
}

}  // namespace
}  // namespace mlxterp
