// Training transcoders across layers: losses against torch's autograd
// (tests/parity/make_clt_training.py), and what is saved.

#include "mlxterp/sae/clt_train.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/sae/save.h"
#include "mlxterp/sae/set.h"
#include "sae/train/losses.h"
#include "tests/temp_folder.h"

namespace mlxterp {

namespace {

namespace mx = mlx::core;
using sae_train::Engine;

const std::string fixtures = MLXTERP_SOURCE_DIR "/tests/sae/fixtures/";

using Tensors = CltTrainer::Tensors;

Tensors given() {
  const auto file = Safetensors::open(fixtures + "clt_training.safetensors");
  Tensors out;
  for (const auto& tensor : file.tensors())
    out.insert_or_assign(tensor.name, file.read(tensor));
  return out;
}

mx::array batch(const mx::array& all, int i) {
  return mx::take(all, i % all.shape(0), 0);
}

SaeTrainOptions options_of(const nlohmann::json& json, const Tensors& all) {
  const auto& x = all.at("x");
  auto o = clt_preset(
      parse_sae_recipe(json.at("recipe").get<std::string>()), x.shape(2));
  o.scale = SaeInputScale::none;
  o.features = all.at("W_enc_0").shape(0);
  for (const auto& [name, to] :
       {std::pair{"sparsity", &o.sparsity},
        {"tanh_scale", &o.tanh_scale},
        {"bandwidth", &o.bandwidth},
        {"threshold", &o.threshold},
        {"pre_act", &o.pre_act},
        {"clip", &o.clip},
        {"learning_rate", &o.learning_rate},
        {"warm_up", &o.warm_up},
        {"decay", &o.decay},
        {"sparsity_warm_up", &o.sparsity_warm_up}})
    *to = json.at(name);
  o.k = json.at("k");
  o.dead_after = json.at("dead_after");
  o.aux_k = json.at("aux_k");
  o.batch_size = x.shape(1);
  constexpr int steps = 100;
  o.tokens = static_cast<int64_t>(o.batch_size) * steps;
  return o;
}

// The same start: thresholds aside, which the options say.
void set_start(CltTrainer& trainer, Tensors all) {
  all.erase("x");
  all.erase("y");
  trainer.set(all);
}

nlohmann::json cases() {
  std::ifstream in(fixtures + "clt_training.json");
  return nlohmann::json::parse(in).at("cases");
}

double off(const mx::array& a, const mx::array& b) {
  const auto scale = mx::add(mx::max(mx::abs(b)), mx::array(1e-6f));
  const auto it = mx::divide(mx::max(mx::abs(mx::subtract(a, b))), scale);
  return static_cast<double>(mx::array(it).item<float>());
}

TEST(CltTraining, LossesAreTorchs) {
  const auto all = given();
  double largest = 0;
  size_t compared = 0;
  for (const auto& item : cases()) {
    const auto o = options_of(item.at("options"), all);
    CltTrainer trainer(o, batch(all.at("x"), 0), batch(all.at("y"), 0));
    set_start(trainer, all);
    for (int t = 0; t < 100; ++t) {
      const auto step =
          trainer.step(batch(all.at("x"), t), batch(all.at("y"), t));
      const double want = item.at("losses").at(static_cast<size_t>(t));
      const double error = std::abs(step.loss - want) / std::abs(want);
      ASSERT_LE(error, 1e-4) << item.at("options").dump() << " step " << t
                             << ": " << step.loss << ", and torch has " << want;
      largest = std::max(largest, error);
      ++compared;
    }
    EXPECT_LT(
        item.at("losses").at(99).get<double>(),
        item.at("losses").at(0).get<double>());
  }
  EXPECT_EQ(compared, 500u);
  std::printf("%zu losses, largest relative error %.1e\n", compared, largest);
}

// MLX's operations are what other devices run.
TEST(CltTraining, OperationsAgreeWithLoops) {
  const auto all = given();
  const auto o = options_of(cases().at(2).at("options"), all);
  ASSERT_EQ(o.recipe, SaeRecipe::batch_topk);
  CltTrainer trainer(o, batch(all.at("x"), 0), batch(all.at("y"), 0));
  set_start(trainer, all);
  sae_train::CltProblem problem{
      .options = trainer.options(),
      .p = trainer.parameters(),
      .x = batch(all.at("x"), 0),
      .y = batch(all.at("y"), 0),
      .dead = {1, 5, 6, 7, 11, 30, 39, 40, 41, 79, 100, 119}};
  const auto loops = slopes_of(problem);
  problem.engine = Engine::ops;
  const auto ops = slopes_of(problem);
  ASSERT_EQ(loops.gradients.size(), 12u);
  EXPECT_LE(off(ops.loss, loops.loss), 1e-5);
  EXPECT_GT(mx::array(loops.aux).item<float>(), 0);
  EXPECT_LE(off(ops.aux, loops.aux), 1e-5);
  EXPECT_LE(off(ops.fired, loops.fired), 1e-5);
  EXPECT_LE(off(*ops.least, *loops.least), 1e-5);
  for (const auto& [name, value] : loops.gradients)
    EXPECT_LE(off(ops.gradients.at(name), value), 1e-5) << name;
}

// What is saved does for inputs as they come what the trainer does for scaled
// ones, by the formula and by the files.
TEST(CltTraining, FilesReconstructAsTheTrainerDoes) {
  const auto all = given();
  const auto times = [](const mx::array& x, std::vector<float> factors) {
    return mx::multiply(x, mx::array(factors.data(), {1, 3, 1}, mx::float32));
  };
  const auto x = times(batch(all.at("x"), 0), {7, 0.5, 2});
  const auto y = times(batch(all.at("y"), 0), {0.3f, 4, 20});
  for (const auto recipe : {SaeRecipe::jump_relu, SaeRecipe::batch_topk}) {
    auto o = clt_preset(recipe, 3);
    o.features = 40;
    o.k = 6;
    o.batch_size = x.shape(0);
    o.tokens = 3200;
    o.sparsity = 0.1;
    o.learning_rate = 3e-3;
    CltTrainer first(o, x, y);
    for (int t = 0; t < 60; ++t)
      first.step(x, y);
    // Weights that rest have a threshold that is no average of several.
    o.learning_rate = 1e-12;
    CltTrainer trainer(o, x, y);
    trainer.set(first.parameters());
    for (int t = 0; t < 3; ++t)
      trainer.step(x, y);
    testing::TempFolder place;
    auto made = trainer.transcoders();
    for (size_t i = 0; i < made.size(); ++i) {
      check(made[i]);
      made[i].source.site_in = "layers." + std::to_string(i) + ".resid_mid";
      made[i].source.site_out = "layers." + std::to_string(i) + ".mlp_out";
    }
    const auto folder = place.path() / "clt";
    save_circuit_tracer(made, folder);
    const auto set = SaeSet::open(folder.string());
    ASSERT_EQ(set.kind(), SaeKind::cross_layer);
    ASSERT_EQ(set.layers(), 3);
    EXPECT_EQ(set.layer(1).source.site_in, "layers.1.resid_mid");
    std::vector<mx::array> inputs;
    double l0 = 0;
    for (int l = 0; l < 3; ++l) {
      inputs.push_back(mx::take(x, l, 1));
      const auto acts = encode(set.layer(l), inputs.back());
      const auto on = mx::sum(mx::not_equal(acts, mx::array(0.0f)));
      l0 += static_cast<double>(mx::array(on).item<int>()) / x.shape(0);
    }
    const auto recon = set.reconstruct(inputs);
    // In the trainer's scale: sqrt(d) over the mean length.
    double errors = 0;
    for (int l = 0; l < 3; ++l) {
      const auto want = mx::take(y, l, 1);
      const auto lengths = mx::sqrt(mx::sum(mx::square(want), 1));
      const auto scale = std::sqrt(static_cast<float>(want.shape(1))) /
                         mx::mean(lengths).item<float>();
      const auto e = mx::multiply(
          mx::subtract(recon[static_cast<size_t>(l)], want), mx::array(scale));
      errors += static_cast<double>(mx::sum(mx::square(e)).item<float>());
    }
    const auto step = trainer.step(x, y);
    EXPECT_GT(step.l0, 1);
    // Of batch_topk the least of all is the threshold, and not above it.
    const bool by_k = recipe == SaeRecipe::batch_topk;
    EXPECT_NEAR(l0, step.l0, by_k ? 2.0 / x.shape(0) : 1e-3);
    EXPECT_NEAR(
        errors / x.shape(0), step.error, (by_k ? 1e-2 : 1e-4) * step.error);
    EXPECT_GT(step.explained, 0.3);
  }
}

TEST(CltTraining, GoesOnFromItsState) {
  const auto all = given();
  for (const auto& item : cases()) {
    const auto o = options_of(item.at("options"), all);
    CltTrainer whole(o, batch(all.at("x"), 0), batch(all.at("y"), 0)),
        rest = whole;
    for (int t = 0; t < 20; ++t) {
      whole.step(batch(all.at("x"), t), batch(all.at("y"), t));
      if (t == 11) rest.restore(whole.state());
    }
    for (int t = 12; t < 20; ++t)
      rest.step(batch(all.at("x"), t), batch(all.at("y"), t));
    const auto one = whole.state(), two = rest.state();
    ASSERT_EQ(one.size(), two.size());
    for (const auto& [name, value] : one)
      EXPECT_TRUE(mx::array_equal(value, two.at(name)).item<bool>()) << name;
  }
}

TEST(CltTraining, RefusesWhatCannotBe) {
  const auto all = given();
  const auto x = batch(all.at("x"), 0), y = batch(all.at("y"), 0);
  const auto refused = [&](auto change, const std::string& word) {
    auto o = clt_preset(SaeRecipe::jump_relu, 3);
    o.features = 40;
    change(o);
    try {
      const auto few = [&](const mx::array& it) {
        return mx::slice(
            it, {0, 0, 0}, {it.shape(0), std::min(o.layers, 3), it.shape(2)});
      };
      const CltTrainer trainer(o, few(x), few(y));
      ADD_FAILURE() << word;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos)
          << error.what();
    }
  };
  refused([](auto& o) { o.layers = 1; }, "of 1 layers; give 2 to");
  refused([](auto& o) { o.layers = 4; }, "rows of 4 layers");
  refused([](auto& o) { o.recipe = SaeRecipe::topk; }, "not by topk");
  refused([](auto& o) { o.skip = true; }, "has no skip");
  refused([](auto& o) { o.penalty = SaePenalty::step; }, "penalty tanh");
  refused([](auto& o) { o.threshold = 0; }, "threshold is 0");
  refused([](auto& o) { o.features = 1 << 28; }, "features");
  refused(
      [](auto& o) {
        o.recipe = SaeRecipe::batch_topk;
        o.k = 121;
      },
      "k is 121 of 120");
  auto o = clt_preset(SaeRecipe::jump_relu, 3);
  o.features = 40;
  CltTrainer trainer(o, x, y);
  EXPECT_THROW(trainer.step(x, x), Error);
  EXPECT_THROW(trainer.step(mx::full(x.shape(), mx::array(NAN)), y), Error);
  EXPECT_THROW(trainer.restore({}), Error);
  EXPECT_THROW(CltTrainer(o, mx::zeros_like(x), y), Error);
}

}  // namespace

}  // namespace mlxterp
