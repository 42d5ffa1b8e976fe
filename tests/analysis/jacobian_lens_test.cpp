#include "mlxterp/analysis/jacobian_lens.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <iterator>
#include <numeric>
#include <set>

#include "analysis/jacobian/source.h"
#include "io/torch_pickle.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/analysis/lens_edits.h"
#include "mlxterp/core/error.h"
#include "mlxterp/core/paths.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/models/family.h"
#include "mlxterp/models/load.h"
#include "tests/analysis/whole_model.h"
#include "tests/families.h"
#include "tests/temp_folder.h"
#include "tests/tiny_model.h"
#include "trace/stepper.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using test::apart;

constexpr int skip = 2;

// Quiet about convergence, and small enough for tiny models.
JacobianOptions options_of(LinearRule rule = LinearRule::full) {
  JacobianOptions options;
  options.skip = skip;
  options.rule = rule;
  options.tolerance = 0;
  return options;
}

std::vector<int> prompt_of(const InterpretableModel& model, int seed = 0) {
  const int vocab = model.decoder().config().vocab;
  std::vector<int> ids;
  for (int i = 0; i < 9; ++i)
    ids.push_back((7 + 5 * i + 11 * seed + i * i) % vocab);
  return ids;
}

// The definition: the whole model differentiated by a zero added to what leaves
// layer l, a row of the batch for each output dimension.
mx::array plainly(
    const InterpretableModel& model, const std::vector<int>& ids, int layer) {
  const int length = static_cast<int>(ids.size());
  const int d = model.decoder().config().d_model;
  // One at every position that counts.
  const auto counts = mx::logical_and(
      mx::greater_equal(mx::arange(length), mx::array(skip)),
      mx::less(mx::arange(length), mx::array(length - 1)));
  const auto gradient = test::gradient_through(
      model,
      ids,
      layer,
      mx::multiply(
          mx::expand_dims(mx::eye(d), 1),
          mx::reshape(mx::astype(counts, mx::float32), {1, length, 1})));
  return mx::mean(mx::slice(gradient, {0, skip, 0}, {d, length - 1, d}), 1);
}

TEST(JacobianLens, IsTheGradientThroughTheWholeModelInEveryFamily) {
  float worst = 0;
  size_t compared = 0;
  std::string at;
  for (const auto& variant : test::supported_variants()) {
    const auto model = test::load_variant(variant, mx::float32);
    const auto ids = prompt_of(model);
    const auto fit = fit_jacobian_lens(model, {ids}, options_of());
    const int n = model.decoder().config().n_layers;
    ASSERT_EQ(static_cast<int>(fit.lens.layers.size()), n - 1) << variant;
    if (n < 2) continue;
    const auto error = apart(fit.lens.at(0), plainly(model, ids, 0));
    EXPECT_LE(error, 1e-5f) << variant;
    // Two rows, some and many each take other products.
    auto lowest = options_of();
    lowest.layers = {0};
    for (const auto& tokens :
         {std::vector{1, 2}, std::vector{1, 2, 3, 4, 5, 6, 7}}) {
      const auto few = lens_directions(model, tokens, {ids}, lowest);
      EXPECT_LE(
          apart(few.directions[0], fit.lens.directions(model, tokens, 0)),
          1e-5f)
          << variant;
    }
    if (error > worst) at = variant;
    worst = std::max(worst, error);
    ++compared;
  }
  std::cout << fmt::format(
      "{} families, {} at most, in {}\n", compared, worst, at);
  EXPECT_GE(compared, 100u);
}

// Frozen is the true gradient of a model whose patterns and norms' scales are
// put back to what they were.
// Packed experts in mxfp4; the other packings have models of one layer.
TEST(JacobianLens, OfPackedWeightsIsThatOfTheSameUnpacked) {
  float worst = 0;
  size_t compared = 0, packed_matrices = 0;
  const std::filesystem::path root =
      MLXTERP_SOURCE_DIR "/tests/parity/quantized";
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    const auto load = [&](bool packed) {
      const auto checkpoint = Checkpoint::open(entry.path());
      return InterpretableModel(
          load_decoder(checkpoint, {.dtype = mx::float32, .packed = packed}),
          std::nullopt,
          family_of(checkpoint.config()).renames);
    };
    const auto packed = load(true), unpacked = load(false);
    if (packed.decoder().config().n_layers < 2) continue;
    for (const auto& [name, matrix] : packed.module().matrices())
      packed_matrices += matrix->is_packed();
    const auto ids = prompt_of(packed);
    const auto one = fit_jacobian_lens(packed, {ids}, options_of()).lens;
    const auto other = fit_jacobian_lens(unpacked, {ids}, options_of()).lens;
    ASSERT_EQ(one.layers, other.layers) << entry.path();
    for (const int layer : one.layers) {
      const auto error = apart(one.at(layer), other.at(layer));
      EXPECT_LE(error, 1e-5f) << entry.path() << " " << layer;
      worst = std::max(worst, error);
    }
    EXPECT_LE(
        apart(
            one.directions(packed, {1, 2, 3}, 0),
            other.directions(unpacked, {1, 2, 3}, 0)),
        1e-5f)
        << entry.path();
    ++compared;
  }
  std::cout << fmt::format(
      "{} models, {} packed matrices, {} at most\n",
      compared,
      packed_matrices,
      worst);
  EXPECT_EQ(compared, 2u);
  EXPECT_EQ(packed_matrices, 14u);
}

// A model with trained weights, few positions of a prompt that is longer: rows
// of J against as many passes through the whole of it.
TEST(JacobianLens, OfTheDemoModelIsItsGradient) {
  ASSERT_TRUE(std::filesystem::exists(demo_model_path()))
      << "the demo model is missing; run make demo";
  const auto model = InterpretableModel::load("demo");
  constexpr int length = 32, from = 28, rows = 3;
  std::vector<int> ids;
  for (int i = 0; i < length; ++i)
    ids.push_back(200 + 37 * i + i * i * i);
  auto options = options_of();
  options.skip = from;
  options.layers = {0, 15, 28};
  const auto lens = fit_jacobian_lens(model, {ids}, options).lens;
  const int d = lens.d_model(), n = model.decoder().config().n_layers;
  const auto u = mx::random::normal(
      {rows, d}, mx::float32, 0.0f, 1.0f, mx::random::key(3));
  const auto tokens = mx::broadcast_to(
      mx::array(ids.data(), {1, length}, mx::int32), {rows, length});
  // All three layers in one pass back.
  const auto last = [&](const std::vector<mx::array>& added) {
    Stepper stepper(model);
    auto x = stepper.embed(tokens);
    for (int i = 0; i < n; ++i) {
      x = stepper.layer(i, x);
      for (size_t l = 0; l < lens.layers.size(); ++l)
        if (i == lens.layers[l]) x = mx::add(x, added[l]);
    }
    return std::vector{x};
  };
  const auto at = mx::arange(length);
  const auto counts = mx::logical_and(
      mx::greater_equal(at, mx::array(from)),
      mx::less(at, mx::array(length - 1)));
  const auto cotangent = mx::multiply(
      mx::expand_dims(u, 1),
      mx::reshape(mx::astype(counts, mx::float32), {1, length, 1}));
  const std::vector<mx::array> zeros(
      lens.layers.size(), mx::zeros({rows, length, d}));
  const auto gradients = mx::vjp(last, zeros, {cotangent}).second;
  float worst = 0;
  for (size_t l = 0; l < lens.layers.size(); ++l) {
    const auto plain = mx::mean(
        mx::slice(gradients[l], {0, from, 0}, {rows, length - 1, d}), 1);
    const auto error = apart(mx::matmul(u, lens.at(lens.layers[l])), plain);
    EXPECT_LE(error, 1e-5f) << lens.layers[l];
    worst = std::max(worst, error);
  }
  EXPECT_EQ(lens.layers.size(), 3u);
  std::cout << fmt::format("demo: {} at most\n", worst);
}

TEST(JacobianLens, FrozenIsTheGradientOfAModelThatIsHeld) {
  for (const char* variant :
       {"llama-gqa", "gpt2", "gemma2", "qwen3", "cohere2", "falcon"}) {
    const auto model = test::load_variant(variant, mx::float32);
    const auto ids = prompt_of(model);
    std::vector<std::string> held;
    for (size_t i = 0; i < model.sites().size(); ++i) {
      const std::string_view name = model.sites()[static_cast<SiteId>(i)].name;
      if (name.starts_with("layers.") &&
          (name.ends_with(".attn.pattern") || name.ends_with(".scale")))
        held.emplace_back(name);
    }
    const auto values = model.run(ids, {.save = held});
    std::vector<Edit> edits;
    for (const auto& name : held)
      edits.push_back({name, replace_with(values[name])});
    const auto fit =
        fit_jacobian_lens(model, {ids}, options_of(LinearRule::frozen));
    const auto wanted = plainly(model.with(edits), ids, 0);
    EXPECT_LE(apart(fit.lens.at(0), wanted), 1e-5f) << variant;
    const auto full = fit_jacobian_lens(model, {ids}, options_of());
    EXPECT_GE(apart(full.lens.at(0), wanted), 1e-3f) << variant;
  }
}

// Under relevance a layer without biases is homogeneous where there is nothing
// to attend to but itself: at the first position what the lens makes of a
// residual is what the model does.
TEST(JacobianLens, RelevanceAddsUpAtTheFirstPosition) {
  for (const char* variant :
       {"llama-gqa", "gemma2", "gemma3", "olmo2-gqa", "qwen3", "granite"}) {
    const auto model = test::load_variant(variant, mx::float32);
    const std::vector<int> ids = {5, 3};
    auto options = options_of(LinearRule::relevance);
    options.skip = 0;
    const auto lens = fit_jacobian_lens(model, {ids}, options).lens;
    const int last = model.decoder().config().n_layers - 1;
    const auto run = model.run(ids, {.save = {"layers.*.resid_post"}});
    const auto first = [&](int layer) {
      const auto& x = run[fmt::format("layers.{}.resid_post", layer)];
      return mx::reshape(mx::slice(x, {0, 0, 0}, {1, 1, x.shape(2)}), {-1, 1});
    };
    for (const int layer : lens.layers)
      EXPECT_LE(
          apart(mx::matmul(lens.at(layer), first(layer)), first(last)), 1e-5f)
          << variant << " " << layer;
    EXPECT_FALSE(lens.layers.empty()) << variant;
  }
}

TEST(JacobianLens, IsTheSlopeOfFiniteDifferences) {
  const auto model = test::tiny_model();
  const auto ids = prompt_of(model);
  const auto fit = fit_jacobian_lens(model, {ids}, options_of());
  const int length = static_cast<int>(ids.size());
  const int d = model.decoder().config().d_model, counted = length - 1 - skip;
  // Column j: dimension j of every source moved, one source after the other.
  const int column = 5;
  const float step = 1e-2f;
  const auto summed = [&](int source, float by) {
    Stepper stepper(model, nullptr, {.lengths = {length}});
    auto x = stepper.embed(mx::array(ids.data(), {1, length}, mx::int32));
    std::vector<float> one(static_cast<size_t>(length * d), 0.0f);
    one[static_cast<size_t>(source * d + column)] = by;
    for (int i = 0; i < 3; ++i) {
      x = stepper.layer(i, x);
      if (i == 0) x = mx::add(x, mx::array(one.data(), {1, length, d}));
    }
    return mx::sum(mx::slice(x, {0, skip, 0}, {1, length - 1, d}), 1);
  };
  auto slope = mx::zeros({1, d});
  for (int t = skip; t < length - 1; ++t)
    slope = mx::add(
        slope,
        mx::divide(
            mx::subtract(summed(t, step), summed(t, -step)),
            mx::array(2 * step * static_cast<float>(counted))));
  const auto found = mx::reshape(
      mx::slice(fit.lens.at(0), {0, column}, {d, column + 1}), {1, d});
  EXPECT_LE(apart(found, slope), 1e-3f);
}

// The rows of several prompts, each as long as it likes.
Inputs::Rows corpus_of(const InterpretableModel& model, int n) {
  Inputs::Rows out;
  for (int i = 0; i < n; ++i) {
    out.push_back(prompt_of(model, i));
    out.back().resize(static_cast<size_t>(9 - i % 3));
  }
  return out;
}

TEST(JacobianLens, TwoHalvesMergedAreOneFit) {
  const auto model = test::tiny_model();
  const auto all = corpus_of(model, 5);
  const auto whole = fit_jacobian_lens(model, all, options_of()).lens;
  const auto a = fit_jacobian_lens(model, {all[0], all[1]}, options_of()).lens;
  const auto b =
      fit_jacobian_lens(model, {all[2], all[3], all[4]}, options_of()).lens;
  const auto merged = merge({a, b});
  EXPECT_EQ(merged.source.prompts, 5u);
  for (const int layer : whole.layers)
    EXPECT_LE(apart(merged.at(layer), whole.at(layer)), 1e-6f);
  EXPECT_THROW(merge({a, a}), Error);
  auto frozen = options_of(LinearRule::frozen);
  EXPECT_THROW(
      merge({a, fit_jacobian_lens(model, {all[2]}, frozen).lens}), Error);
  auto other = options_of();
  other.skip = 3;
  EXPECT_THROW(
      merge({a, fit_jacobian_lens(model, {all[2]}, other).lens}), Error);
}

TEST(JacobianLens, AFitThatWasEndedGoesOn) {
  const auto model = test::tiny_model();
  const auto all = corpus_of(model, 4);
  const testing::TempFolder folder;
  auto options = options_of();
  const auto whole = fit_jacobian_lens(model, all, options);
  options.checkpoint = folder / "lens.partial";
  options.stop = [n = 0]() mutable { return ++n == 2; };
  const auto half = fit_jacobian_lens(model, all, options);
  EXPECT_EQ(half.lens.source.prompts, 2u);
  // What is in the file is a lens, and exactly the one that was ended.
  const auto partial = JacobianLens::load(options.checkpoint);
  for (const int layer : half.lens.layers)
    EXPECT_TRUE(
        mx::array_equal(partial.at(layer), half.lens.at(layer)).item<bool>());
  options.stop = {};
  options.resume = true;
  const auto resumed = fit_jacobian_lens(model, all, options);
  EXPECT_EQ(resumed.lens.source.prompts, 4u);
  ASSERT_EQ(resumed.changes.size(), 3u);
  for (const int layer : whole.lens.layers)
    EXPECT_LE(apart(resumed.lens.at(layer), whole.lens.at(layer)), 1e-6f);
  // Of other prompts, layers or another estimator it is refused.
  EXPECT_THROW(fit_jacobian_lens(model, {all[0]}, options), Error);
  options.layers = {1};
  EXPECT_THROW(fit_jacobian_lens(model, all, options), Error);
}

// The published code's checkpoint: the sums and nothing they were rounded by.
TEST(JacobianLens, AFitGoesOnFromSumsAsTorchHasThem) {
  const auto model = test::tiny_model();
  const auto all = corpus_of(model, 4);
  const testing::TempFolder folder;
  auto options = options_of();
  const auto whole = fit_jacobian_lens(model, all, options);
  options.checkpoint = folder / "sums.pt";
  options.stop = [n = 0]() mutable { return ++n == 2; };
  const auto half = fit_jacobian_lens(model, all, options);
  const auto file = TorchFile::open(options.checkpoint);
  EXPECT_EQ(file.value().find("n_done")->integer, 2);
  EXPECT_EQ(file.value().find("next_idx")->integer, 2);
  EXPECT_EQ(file.value().find("skip_first")->integer, skip);
  EXPECT_EQ(file.value().find("target_layer")->integer, 2);
  const auto& sum = *file.value().find("jacobian_sum")->find("0");
  EXPECT_LE(
      apart(
          file.read(sum.tensor, "0", mx::float32),
          mx::multiply(half.lens.at(0), mx::array(2.0f))),
      1e-6f);
  options.stop = {};
  options.resume = true;
  const auto resumed = fit_jacobian_lens(model, all, options);
  EXPECT_EQ(resumed.lens.source.prompts, 4u);
  for (const int layer : whole.lens.layers)
    EXPECT_LE(apart(resumed.lens.at(layer), whole.lens.at(layer)), 1e-6f);
  EXPECT_THROW(fit_jacobian_lens(model, {all[0]}, options), Error);
  // A lens is no checkpoint.
  options.checkpoint = folder / "lens.pt";
  whole.lens.save(options.checkpoint);
  EXPECT_THROW(fit_jacobian_lens(model, all, options), Error);
}

TEST(JacobianLens, StopsByItselfWhereNothingChanges) {
  const auto model = test::tiny_model();
  const auto all = Inputs::Rows(20, prompt_of(model));
  auto options = options_of();
  options.tolerance = 1e-4f;
  options.window = 3;
  options.least = 6;
  const auto fit = fit_jacobian_lens(model, all, options);
  EXPECT_TRUE(fit.lens.source.converged);
  EXPECT_EQ(fit.lens.source.prompts, 6u);
  options.least = 100;
  EXPECT_EQ(fit_jacobian_lens(model, all, options).lens.source.prompts, 20u);
}

TEST(JacobianLens, DirectionsAreRowsOfTheUnembeddingThroughTheLens) {
  const auto model = test::tiny_model();
  const auto all = corpus_of(model, 3);
  const auto lens = fit_jacobian_lens(model, all, options_of()).lens;
  const std::vector<int> tokens = {3, 50, 96};
  const auto found = lens_directions(model, tokens, all, options_of());
  ASSERT_EQ(found.layers, (std::vector{0, 1, 2}));
  for (size_t l = 0; l < found.layers.size(); ++l)
    EXPECT_LE(
        apart(
            found.directions[l],
            lens.directions(model, tokens, found.layers[l])),
        1e-5f)
        << "layer " << l;
  // Few rows at a time, and all at once.
  auto small = options_of();
  small.memory = 1;
  const auto slow = fit_jacobian_lens(model, all, small).lens;
  EXPECT_LE(apart(slow.at(0), lens.at(0)), 1e-6f);
}

TEST(JacobianLens, RulesHoldWhatTheyName) {
  const auto model = test::tiny_model();
  const auto ids = prompt_of(model);
  const auto full = fit_jacobian_lens(model, {ids}, options_of()).lens;
  for (const LinearRule rule : {LinearRule::relevance, LinearRule::frozen}) {
    const auto held = fit_jacobian_lens(model, {ids}, options_of(rule)).lens;
    EXPECT_GT(apart(held.at(0), full.at(0)), 1e-3f) << name(rule);
    EXPECT_EQ(linear_rule(name(rule)), rule);
  }
  EXPECT_THROW(linear_rule("half"), Error);
}

// Every site inside of layers, of every family: the gradient of a model in
// which it is put back to what it was.
TEST(JacobianLens, HeldSitesAreThoseOfAModelThatIsHeld) {
  float worst = 0;
  size_t compared = 0, changed = 0, refused = 0, turn = 0;
  for (const auto& variant : test::supported_variants()) {
    const auto model = test::load_variant(variant, mx::float32);
    if (model.decoder().config().n_layers < 2) continue;
    const auto ids = prompt_of(model);
    auto options = options_of();
    options.layers = {0};
    const auto full = lens_directions(model, {1, 2}, {ids}, options);
    std::set<std::string> names;
    for (size_t i = 0; i < model.sites().size(); ++i) {
      const auto& site = model.sites()[static_cast<SiteId>(i)];
      if (site.layer > 0 && !site.relative().starts_with("resid_"))
        names.emplace(site.relative());
    }
    // A sixth of them each, another one with every model.
    for (size_t i = turn++ % 6; i < names.size(); i += 6) {
      const auto& name = *std::next(names.begin(), static_cast<long>(i));
      options.rule = linear_rule("hold(" + name + ")");
      if (name.ends_with(".state")) {
        EXPECT_THROW(lens_directions(model, {1, 2}, {ids}, options), Error);
        ++refused;
        continue;
      }
      const auto held = lens_directions(model, {1, 2}, {ids}, options);
      std::vector<std::string> sites;
      for (const auto site : model.sites().match("layers.*." + name))
        sites.push_back(model.sites()[site].name);
      const auto values = model.run(ids, {.save = sites});
      std::vector<Edit> edits;
      for (const auto& site : sites)
        edits.push_back({site, replace_with(values[site])});
      const auto plain = options_of();
      const auto wanted = mx::matmul(
          jacobian::unembedding_of(model, {1, 2}),
          plainly(model.with(edits), ids, 0));
      const auto error = apart(held.directions[0], wanted);
      // Of two tokens' rows, whose largest number is smaller than J's.
      EXPECT_LE(error, 3e-5f) << variant << " " << name;
      worst = std::max(worst, error);
      if (apart(held.directions[0], full.directions[0]) > 1e-5f) ++changed;
      ++compared;
    }
  }
  std::cout << fmt::format(
      "{} rules, {} at most; {} change the gradient\n",
      compared,
      worst,
      changed);
  EXPECT_GE(compared, 900u);
  EXPECT_GE(changed, compared / 2);
  EXPECT_GE(refused, 1u);
}

TEST(JacobianLens, RulesOfOnesOwn) {
  const auto model = test::tiny_model();
  const auto ids = prompt_of(model);
  const auto of = [&](const char* rule) {
    return fit_jacobian_lens(model, {ids}, options_of(linear_rule(rule)))
        .lens.at(0);
  };
  EXPECT_LE(
      apart(of("hold(attn.pattern, {ln1,ln2}.scale)"), of("frozen")), 1e-6f);
  EXPECT_LE(
      apart(of("hold(layers.{1..2}.attn.pattern)"), of("hold(attn.pattern)")),
      1e-6f);
  EXPECT_EQ(
      name(linear_rule("hold( attn.pattern,{ln1,ln2}.scale )")),
      "hold(attn.pattern, {ln1,ln2}.scale)");
  for (const char* wrong :
       {"hold()",
        "hold(attn.pattern,)",
        "hold(attn.pattern",
        "hold(attn.patern)",
        "hold(resid_pre)",
        "hold(layers.0.resid_post)",
        "hold(embed)",
        "hold(logits)"})
    EXPECT_THROW(of(wrong), Error) << wrong;
}

TEST(JacobianLens, IsTheSameFromEveryFile) {
  const auto model = test::tiny_model();
  const auto lens =
      fit_jacobian_lens(model, corpus_of(model, 2), options_of()).lens;
  const testing::TempFolder folder;
  for (const auto* name : {"lens.safetensors", "lens.pt"}) {
    const auto path = folder / name;
    lens.save(path);
    EXPECT_THROW(lens.save(path), Error);
    const auto back = JacobianLens::load(path);
    EXPECT_EQ(back.layers, lens.layers);
    EXPECT_EQ(back.source.prompts, 2u);
    EXPECT_EQ(back.source.weights, lens.source.weights);
    EXPECT_EQ(back.source.target_layer, 2);
    EXPECT_EQ(back.source.skip, skip);
    for (const int layer : lens.layers)
      EXPECT_LE(apart(back.at(layer), lens.at(layer)), 1e-3f) << name;
    EXPECT_NO_THROW(back.check_fits(model));
  }
}

// tests/parity/make_jacobian_lens.py.
TEST(JacobianLens, IsReadFromWhatTorchWrites) {
  const std::filesystem::path fixtures =
      MLXTERP_SOURCE_DIR "/tests/analysis/fixtures";
  for (const auto* name : {"jacobian_lens.pt", "jacobian_sums.pt"}) {
    const auto lens = JacobianLens::load(fixtures / name);
    EXPECT_EQ(lens.layers, (std::vector{0, 2})) << name;
    EXPECT_EQ(lens.source.prompts, 4u);
    EXPECT_EQ(lens.source.target_layer, 3);
    EXPECT_EQ(lens.source.skip, 16);
    for (const int layer : lens.layers) {
      const auto expected = mx::add(
          mx::array(static_cast<float>(layer)),
          mx::divide(mx::reshape(mx::arange(9.0f), {3, 3}), mx::array(8.0f)));
      EXPECT_TRUE(mx::array_equal(lens.at(layer), expected).item<bool>());
    }
  }
  EXPECT_EQ(
      JacobianLens::load(fixtures / "jacobian_lens.pt").source.model, "tiny");
}

TEST(JacobianLens, RefusesWhatDoesNotFit) {
  const auto model = test::tiny_model();
  const auto all = corpus_of(model, 1);
  const auto lens = fit_jacobian_lens(model, all, options_of()).lens;
  auto wide = test::tiny_config();
  wide.d_model = 32;
  EXPECT_THROW(lens.check_fits(test::tiny_model(wide)), Error);
  auto deep = test::tiny_config();
  deep.n_layers = 4;
  EXPECT_THROW(lens.check_fits(test::tiny_model(deep)), Error);
  auto other = lens;
  other.source.weights = "0123";
  EXPECT_THROW(other.check_fits(model), Error);
  EXPECT_NO_THROW(other.check_fits(model, /*any_model=*/true));
  other.source.target_layer = 1;
  EXPECT_THROW(other.check_fits(model, true), Error);
  // Prompts that are too short, layers that are none, the target's own.
  auto options = options_of();
  options.skip = 8;
  EXPECT_THROW(fit_jacobian_lens(model, all, options), Error);
  EXPECT_THROW(fit_jacobian_lens(model, {}, options_of()), Error);
  options = options_of();
  for (const int layer : {2, 3, -4}) {
    options.layers = {layer};
    EXPECT_THROW(fit_jacobian_lens(model, all, options), Error) << layer;
  }
  EXPECT_THROW(lens_directions(model, {97}, all, options_of()), Error);
}

TEST(JacobianLens, ReadsAPromptAsMatrixNormAndHead) {
  const auto model = test::tiny_model();
  const auto ids = prompt_of(model);
  auto some = options_of();
  some.layers = {1};
  const auto lens = fit_jacobian_lens(model, {ids}, some).lens;
  const auto found = logit_lens(model, ids, {.jacobian = &lens, .top_k = 97});
  ASSERT_TRUE(found.jacobian);
  ASSERT_EQ(found.rows(), 2u);  // layer 0 has no matrix
  const auto plain = logit_lens(model, ids, {.layers = {2}, .top_k = 97});
  const auto run = model.run(ids, {.save = {"layers.1.resid_post"}});
  const auto logits = Stepper(model).head(mx::matmul(
      mx::squeeze(run["layers.1.resid_post"], 0), mx::transpose(lens.at(1))));
  for (size_t p = 0; p < ids.size(); ++p)
    for (size_t k = 0; k < 97; ++k) {
      const auto at = found.cell(0, p) * 97 + k;
      const auto row = static_cast<int>(p), id = found.top_ids[at];
      EXPECT_NEAR(
          found.top_logits[at],
          mx::slice(logits, {row, id}, {row + 1, id + 1}).item<float>(),
          1e-5);
      // The last layer is the model itself.
      EXPECT_NEAR(
          found.top_logits[found.cell(1, p) * 97 + k],
          plain.top_logits[plain.cell(0, p) * 97 + k],
          1e-5);
    }
  EXPECT_THROW(
      logit_lens(model, ids, {.layers = {0}, .jacobian = &lens}), Error);
  EXPECT_THROW(
      logit_lens(model, ids, {.site = "mlp_out", .jacobian = &lens}), Error);
}

TEST(LensEdits, SwapsTwiceIsNothingAndClampsOnce) {
  mx::random::seed(3);
  const auto a = mx::random::normal({24}), b = mx::random::normal({24});
  const auto h = mx::random::normal({1, 5, 24});
  const SiteView at{.name = "layers.0.resid_post"};
  const auto swap = lens_swap(a, b);
  const auto once = swap(h, at);
  EXPECT_GT(apart(once, h), 1e-2f);
  EXPECT_LE(apart(swap(once, at), h), 1e-6f);
  // Coordinates are exchanged, and nothing else of h moves.
  const auto before = lens_coordinates(h, a, b);
  EXPECT_LE(apart(lens_coordinates(once, b, a), before), 1e-5f);
  const auto plain = lens_ablate(mx::stack({a, b}));
  EXPECT_LE(apart(plain(once, at), plain(h, at)), 1e-5f);
  // Double strength goes as far again.
  const auto twice = lens_swap(a, b, 2.0f)(h, at);
  EXPECT_LE(
      apart(
          mx::subtract(twice, h),
          mx::multiply(mx::subtract(once, h), mx::array(2.0f))),
      1e-5f);
  const auto clamp = lens_clamp(a, b, mx::squeeze(h, 0));
  EXPECT_LE(apart(clamp(h, at), once), 1e-6f);
  EXPECT_LE(apart(clamp(once, at), once), 1e-6f);  // idempotent
  EXPECT_LE(apart(lens_coordinates(plain(h, at), a, b), before), 2.0f);
  EXPECT_LE(
      mx::max(mx::abs(lens_coordinates(plain(h, at), a, b))).item<float>(),
      1e-5f);
  // Steering moves every position by the same.
  const auto steered = lens_steer(a, 4.0f)(h, at);
  const auto lengths = mx::sort(mx::sqrt(mx::sum(mx::square(h), -1)), -1);
  const auto moved =
      mx::sqrt(mx::sum(mx::square(mx::subtract(steered, h)), -1));
  EXPECT_LE(
      apart(
          moved,
          mx::broadcast_to(
              mx::multiply(mx::slice(lengths, {0, 2}, {1, 3}), mx::array(4.0f)),
              {1, 5})),
      1e-5f);
  const auto nearly = mx::add(a, mx::multiply(b, mx::array(1e-3f)));
  EXPECT_THROW(lens_swap(a, nearly), Error);
  EXPECT_THROW(lens_steer(mx::zeros({24})), Error);
  EXPECT_THROW(lens_swap(a, mx::ones({23})), Error);
  EXPECT_THROW(swap(mx::ones({1, 5, 23}), at), Error);
}

}  // namespace
}  // namespace mlxterp
