// Training: losses against torch's autograd (tests/parity/
// make_sae_training.py), a dictionary that is known, and what is saved.

#include "mlxterp/sae/train.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/safetensors.h"
#include "sae/train/losses.h"

namespace mlxterp {

namespace {

namespace mx = mlx::core;
using sae_train::Engine;

const std::string fixtures = MLXTERP_SOURCE_DIR "/tests/sae/fixtures/";

SaeTrainer::Tensors given() {
  const auto file = Safetensors::open(fixtures + "training.safetensors");
  SaeTrainer::Tensors out;
  for (const auto& tensor : file.tensors())
    out.insert_or_assign(tensor.name, file.read(tensor));
  return out;
}

mx::array batch(const mx::array& all, int i) {
  const int rows = all.shape(1), d = all.shape(2);
  const int at = i % all.shape(0);
  return mx::reshape(mx::slice(all, {at, 0, 0}, {at + 1, rows, d}), {rows, d});
}

SaeTrainOptions options_of(const nlohmann::json& json, int steps, int rows) {
  auto o = sae_preset(
      json.at("peer").get<std::string>(),
      parse_sae_recipe(json.at("recipe").get<std::string>()));
  constexpr int features = 64;
  o.features = features;
  o.scale = SaeInputScale::none;
  o.mean_bias = false;
  o.k = json.at("k");
  o.widths = json.at("widths").get<std::vector<int>>();
  o.sparsity = json.at("sparsity");
  o.penalty = parse_sae_penalty(json.at("penalty").get<std::string>());
  o.bandwidth = json.at("bandwidth");
  o.threshold = json.at("threshold");
  o.target_l0 = json.at("target_l0");
  o.pre_act = json.at("pre_act");
  o.aux_weight = json.at("aux_weight");
  o.aux_k = json.value("aux_k", 0);
  o.dead_after = json.at("dead_after");
  o.subtract_b_dec = json.at("subtract_b_dec");
  o.blocks = json.at("blocks");
  o.transcoder = json.at("transcoder");
  o.skip = json.at("skip");
  o.learning_rate = json.at("learning_rate");
  o.warm_up = json.at("warm_up");
  o.decay = json.at("decay");
  o.sparsity_warm_up = json.at("sparsity_warm_up");
  o.batch_size = rows;
  o.tokens = static_cast<int64_t>(rows) * steps;
  // Of the preset, and what the reference took it to be.
  EXPECT_EQ(o.unit_decoder, json.at("unit_decoder").get<bool>());
  EXPECT_EQ(o.clip, json.at("clip").get<double>());
  EXPECT_EQ(name_of(o.loss), json.at("loss").get<std::string>());
  EXPECT_EQ(name_of(o.aux), json.at("aux").get<std::string>());
  EXPECT_EQ(o.epsilon, json.at("epsilon").get<double>());
  return o;
}

void set_start(
    SaeTrainer& trainer, const SaeTrainer::Tensors& all, double length) {
  const auto& o = trainer.options();
  const auto W =
      mx::multiply(all.at("directions"), mx::array(static_cast<float>(length)));
  SaeTrainer::Tensors start = {
      {"W_dec", W}, {"W_enc", o.transcoder ? all.at("others") : W}};
  const auto& bias = all.at("bias");
  if (o.recipe == SaeRecipe::gated) {
    start.insert_or_assign("b_gate", bias);
    start.insert_or_assign("b_mag", mx::multiply(bias, mx::array(0.5f)));
    start.insert_or_assign("r_mag", bias);
  } else {
    start.insert_or_assign("b_enc", bias);
  }
  trainer.set(start);
}

std::optional<mx::array> target(
    const SaeTrainer::Tensors& all, bool transcoder, int i) {
  return transcoder ? std::optional(batch(all.at("y"), i)) : std::nullopt;
}

double cosine(const mx::array& truth, const mx::array& rows) {
  const auto unit = [](const mx::array& x) {
    return mx::divide(x, mx::sqrt(mx::sum(mx::square(x), 1, true)));
  };
  const auto all = mx::matmul(unit(truth), mx::transpose(unit(rows)));
  return static_cast<double>(mx::mean(mx::max(all, 1)).item<float>());
}

TEST(SaeTraining, LossesAreTorchs) {
  std::ifstream in(fixtures + "training.json");
  const auto json = nlohmann::json::parse(in);
  const auto all = given();
  const int steps = json.at("steps");
  double largest = 0;
  size_t compared = 0;
  for (const auto& item : json.at("cases")) {
    const auto& said = item.at("options");
    const auto o = options_of(said, steps, all.at("x").shape(1));
    SaeTrainer trainer(o, batch(all.at("x"), 0), target(all, o.transcoder, 0));
    set_start(trainer, all, o.unit_decoder ? 1.0 : 0.5);
    double worst = 0;
    for (int t = 0; t < steps; ++t) {
      const auto step =
          trainer.step(batch(all.at("x"), t), target(all, o.transcoder, t));
      const double want = item.at("losses").at(static_cast<size_t>(t));
      const double off = std::abs(step.loss - want) / std::abs(want);
      ASSERT_LE(off, 1e-4) << said.dump() << " step " << t << ": " << step.loss
                           << ", and torch has " << want;
      worst = std::max(worst, off);
      ++compared;
    }
    if (o.recipe == SaeRecipe::batch_topk && !o.rank_by_norm) {
      const auto threshold = *trainer.sae().threshold;
      // Without what its average remembers of its beginning at 0.
      const double want =
          item.at("threshold").get<double>() / (1 - std::pow(0.99, steps));
      EXPECT_NEAR(mx::max(threshold).item<float>(), want, 1e-4 * want);
    }
    largest = std::max(largest, worst);
  }
  EXPECT_EQ(compared, 2200u);
  std::printf("%zu losses, largest relative error %.1e\n", compared, largest);
}

// MLX's operations are what other devices run.
TEST(SaeTraining, OperationsAgreeWithLoops) {
  std::ifstream in(fixtures + "training.json");
  const auto json = nlohmann::json::parse(in);
  const auto all = given();
  double largest = 0;
  size_t compared = 0;
  for (const auto& item : json.at("cases")) {
    auto o = options_of(item.at("options"), 1, all.at("x").shape(1));
    if (o.recipe != SaeRecipe::topk && o.recipe != SaeRecipe::batch_topk &&
        o.recipe != SaeRecipe::matryoshka)
      continue;
    SaeTrainer trainer(o, batch(all.at("x"), 0), target(all, o.transcoder, 0));
    set_start(trainer, all, o.unit_decoder ? 1.0 : 0.5);
    const auto x = batch(all.at("x"), 0);
    sae_train::Problem problem{
        .options = trainer.options(),
        .p = trainer.parameters(),
        .x = x,
        .y = target(all, o.transcoder, 0).value_or(x),
        .dead = {1, 5, 6, 7, 11, 30, 31, 32, 33, 50, 51, 60, 63}};
    const auto loops = sae_train::slopes_of(problem);
    problem.engine = Engine::ops;
    const auto ops = sae_train::slopes_of(problem);
    ASSERT_EQ(loops.gradients.size(), ops.gradients.size());
    auto pairs = std::vector<std::pair<mx::array, mx::array>>{
        {loops.loss, ops.loss},
        {loops.aux, ops.aux},
        {loops.fired, ops.fired},
        {loops.l0, ops.l0}};
    for (const auto& [name, value] : loops.gradients)
      pairs.emplace_back(value, ops.gradients.at(name));
    for (const auto& [a, b] : pairs) {
      ASSERT_EQ(a.shape(), b.shape());
      const auto scale = mx::add(mx::max(mx::abs(a)), mx::array(1e-6f));
      const auto off = static_cast<double>(
          mx::divide(mx::max(mx::abs(mx::subtract(a, b))), scale)
              .item<float>());
      EXPECT_LE(off, 1e-5) << item.at("options").dump();
      largest = std::max(largest, off);
      ++compared;
    }
  }
  EXPECT_GT(compared, 70u);
  std::printf("%zu values, largest relative error %.1e\n", compared, largest);
}

// Products that read bfloat16: losses as far apart as such numbers are, and
// weights, moments and the threshold stay float32.
TEST(SaeTraining, Bfloat16IsCloseToFloat32) {
  std::ifstream in(fixtures + "training.json");
  const auto json = nlohmann::json::parse(in);
  const auto all = given();
  double largest = 0;
  size_t compared = 0;
  for (const auto& item : json.at("cases")) {
    auto o = options_of(item.at("options"), 1, all.at("x").shape(1));
    const auto x = batch(all.at("x"), 0);
    const auto y = target(all, o.transcoder, 0);
    const auto trained = [&](bool bfloat16) {
      o.bfloat16 = bfloat16;
      SaeTrainer trainer(o, x, y);
      set_start(trainer, all, o.unit_decoder ? 1.0 : 0.5);
      const auto step = trainer.step(x, y);
      for (const auto& [name, value] : trainer.state())
        EXPECT_NE(value.dtype(), mx::bfloat16) << name;
      return step;
    };
    const auto exact = trained(false), rounded = trained(true);
    for (const auto& [a, b] :
         {std::pair{exact.loss, rounded.loss},
          std::pair{exact.error, rounded.error}}) {
      EXPECT_NE(a, b) << item.at("options").dump();
      const double off = std::abs(a - b) / std::abs(a);
      EXPECT_LE(off, 0.01) << item.at("options").dump();
      largest = std::max(largest, off);
      ++compared;
    }
  }
  EXPECT_GE(compared, 40u);
  std::printf("%zu losses, %.1e apart at most\n", compared, largest);
}

// The features of superposed data are found (Bricken et al. 2023).
TEST(SaeTraining, RecoversADictionary) {
  constexpr int d = 24, features = 40, rows = 256, steps = 1000;
  constexpr double active = 0.04;
  const auto key = [](uint64_t n) { return mx::random::key(n); };
  auto truth = mx::random::normal({features, d}, mx::float32, 0, 1, key(1));
  truth = mx::divide(truth, mx::sqrt(mx::sum(mx::square(truth), 1, true)));
  for (const auto recipe : {SaeRecipe::topk, SaeRecipe::batch_topk}) {
    auto o = sae_preset("saelens", recipe);
    o.features = 64;
    o.k = 2;
    o.batch_size = rows;
    o.tokens = static_cast<int64_t>(rows) * steps;
    o.learning_rate = 1e-2;
    o.dead_after = 20000;
    const auto data = [&](uint64_t step) {
      const auto on = mx::random::bernoulli(
          mx::array(static_cast<float>(active)),
          {rows, features},
          key(2 * step + 10));
      const auto size = mx::random::uniform(
          0.5f, 1.5f, {rows, features}, mx::float32, key(2 * step + 11));
      return mx::matmul(mx::multiply(size, on), truth);
    };
    SaeTrainer trainer(o, data(0));
    for (uint64_t t = 0; t < steps; ++t)
      trainer.step(data(t));
    const double found = cosine(truth, trainer.sae().W_dec);
    std::printf(
        "%s: mean max cosine %.4f\n",
        std::string(name_of(recipe)).c_str(),
        found);
    EXPECT_GE(found, 0.95);
  }
}

// What is saved does for inputs as they come what the trainer does for scaled
// ones.
TEST(SaeTraining, FoldsWhatItGivesBack) {
  const auto all = given();
  const auto x = mx::multiply(batch(all.at("x"), 0), mx::array(7.0f));
  const auto y = mx::multiply(batch(all.at("y"), 0), mx::array(0.3f));
  for (const bool transcoder : {false, true})
    for (const auto recipe :
         {SaeRecipe::relu_l1,
          SaeRecipe::gated,
          SaeRecipe::topk,
          SaeRecipe::jump_relu}) {
      auto o = sae_preset("saelens", recipe);
      o.transcoder = o.skip = transcoder;
      o.features = 64;
      o.k = 4;
      o.batch_size = x.shape(0);
      o.tokens = 3200;
      o.learning_rate = 3e-3;
      o.aux = SaeAuxLoss::none;
      const auto to = transcoder ? std::optional(y) : std::nullopt;
      SaeTrainer trainer(o, x, to);
      for (int t = 0; t < 30; ++t)
        trainer.step(x, to);
      const auto sae = trainer.sae();
      check(sae);
      const auto acts = encode(sae, x);
      SaeFitter fitter;
      fitter.add(transcoder ? y : x, decode(sae, acts, x), acts);
      const auto step = trainer.step(x, to);
      const auto fit = fitter.fit();
      EXPECT_NEAR(fit.l0, step.l0, 1e-3) << name_of(recipe);
      EXPECT_NEAR(fit.explained_variance, step.explained, 1e-4)
          << name_of(recipe);
      // Decoder rows of length 1.
      const auto norms = mx::sqrt(mx::sum(mx::square(sae.W_dec), 1));
      EXPECT_NEAR(mx::max(norms).item<float>(), 1, 1e-5);
      EXPECT_NEAR(mx::min(norms).item<float>(), 1, 1e-5);
    }
}

// Of layers of very different lengths.
TEST(SaeTraining, FoldsACrosscoder) {
  const auto all = given();
  std::vector<float> factors(16, 0.2f);
  std::fill_n(factors.begin(), 8, 30.0f);
  const auto x = mx::multiply(
      batch(all.at("x"), 0), mx::array(factors.data(), {16}, mx::float32));
  const auto half = [](const mx::array& it, int i) {
    return mx::slice(it, {0, 8 * i}, {it.shape(0), 8 * i + 8});
  };
  for (const auto recipe :
       {SaeRecipe::relu_l1, SaeRecipe::topk, SaeRecipe::jump_relu}) {
    auto o = crosscoder_preset(recipe, 2);
    o.features = 64;
    o.k = 4;
    o.sparsity = 0.1;
    o.batch_size = x.shape(0);
    o.tokens = 3200;
    o.aux = SaeAuxLoss::none;
    SaeTrainer trainer(o, x);
    for (int t = 0; t < 60; ++t)
      trainer.step(x);
    const auto sae = trainer.sae();
    check(sae);
    const auto acts = encode(sae, x), recon = decode(sae, acts, x);
    const auto step = trainer.step(x);
    double errors = 0, l0 = 0;
    for (int i = 0; i < 2; ++i) {
      SaeFitter fitter;
      fitter.add(half(x, i), half(recon, i), acts);
      l0 = fitter.fit().l0;
      EXPECT_GT(fitter.fit().explained_variance, 0.3) << name_of(recipe);
      const auto lengths = mx::sqrt(mx::sum(mx::square(half(x, i)), 1));
      const auto scale =
          mx::divide(mx::array(std::sqrt(8.0f)), mx::mean(lengths));
      const auto e =
          mx::multiply(mx::subtract(half(recon, i), half(x, i)), scale);
      errors += static_cast<double>(mx::sum(mx::square(e)).item<float>());
    }
    EXPECT_NEAR(l0, step.l0, 1e-3) << name_of(recipe);
    EXPECT_NEAR(errors / x.shape(0), step.error, 1e-4 * step.error)
        << name_of(recipe);
  }
}

TEST(SaeTraining, GoesOnFromItsState) {
  const auto all = given();
  for (const auto recipe : {SaeRecipe::matryoshka, SaeRecipe::jump_relu}) {
    const bool crosses = recipe == SaeRecipe::jump_relu;
    auto o =
        crosses ? crosscoder_preset(recipe, 2) : sae_preset("saelens", recipe);
    o.features = 64;
    o.k = 4;
    o.batch_size = 32;
    o.tokens = 32 * 20;
    o.dead_after = 64;
    SaeTrainer whole(o, batch(all.at("x"), 0)), rest = whole;
    for (int t = 0; t < 20; ++t) {
      whole.step(batch(all.at("x"), t));
      if (t == 11) rest.restore(whole.state());
    }
    for (int t = 12; t < 20; ++t)
      rest.step(batch(all.at("x"), t));
    const auto one = whole.state(), two = rest.state();
    ASSERT_EQ(one.size(), two.size());
    for (const auto& [name, value] : one)
      EXPECT_TRUE(mx::array_equal(value, two.at(name)).item<bool>()) << name;
  }
}

TEST(SaeTraining, RefusesWhatCannotBe) {
  const auto all = given();
  const auto x = batch(all.at("x"), 0);
  const auto refused = [&](auto change, const std::string& word) {
    auto o = sae_preset("saelens", SaeRecipe::topk);
    o.features = 64;
    change(o);
    try {
      SaeTrainer trainer(o, x);
      ADD_FAILURE() << word;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos)
          << error.what();
    }
  };
  refused([](auto& o) { o.k = 65; }, "k is 65 of 64");
  refused([](auto& o) { o.k = 0; }, "k is 0");
  refused([](auto& o) { o.learning_rate = NAN; }, "learning_rate is nan");
  refused([](auto& o) { o.skip = true; }, "transcoder");
  refused([](auto& o) { o.features = -1; }, "-1 features");
  refused([](auto& o) { o.batch_size = 0; }, "batches of 0");
  refused([](auto& o) { o.blocks = 1; }, "a crosscoder of 1 layers");
  refused([](auto& o) { o.blocks = 3; }, "a crosscoder of 3 layers");
  refused([](auto& o) { o.blocks = 2; }, "b_dec not subtracted");
  refused(
      [](auto& o) {
        o.blocks = 2;
        o.recipe = SaeRecipe::gated;
      },
      "not by gated");
  EXPECT_THROW(parse_sae_recipe("topq"), Error);
  EXPECT_THROW(sae_preset("openai", SaeRecipe::gated), Error);
  EXPECT_THROW(
      SaeTrainer(sae_preset("saelens", SaeRecipe::topk), mx::zeros({4, 16})),
      Error);
  SaeTrainer trainer(sae_preset("saelens", SaeRecipe::topk), x);
  EXPECT_THROW(trainer.step(mx::zeros({4, 15})), Error);
  EXPECT_THROW(trainer.step(mx::full({4, 16}, mx::array(NAN))), Error);
  EXPECT_THROW(trainer.restore({}), Error);
}

}  // namespace

}  // namespace mlxterp
