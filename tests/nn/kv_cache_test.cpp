// A prompt fed in pieces is the prompt fed at once, in every family.

#include "mlxterp/nn/kv_cache.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>
#include <optional>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using nn::KvCache;

constexpr double tolerance = 1e-5;  // of the largest logit, or absolute

const std::vector<int> prompt = {3, 14, 15, 92, 65, 35, 89, 79};

// Logits of a prompt in pieces of these lengths.
mx::array in_pieces(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const std::vector<int>& lengths,
    std::vector<Edit> edits = {}) {
  KvCache cache;
  std::vector<mx::array> logits;
  auto at = ids.begin();
  for (const int length : lengths) {
    const auto end = at + length;
    logits.push_back(model.run(
        std::vector<int>(at, end),
        {.save = {"logits"}, .edits = edits, .cache = &cache})["logits"]);
    at = end;
    EXPECT_EQ(cache.positions(), at - ids.begin());
  }
  EXPECT_EQ(at, ids.end());
  return mx::concatenate(logits, 1);
}

class FamilyCache : public testing::TestWithParam<std::string> {};

TEST_P(FamilyCache, PiecesAreTheWhole) {
  const auto& variant = GetParam();
  const auto model = test::load_variant(variant, mx::float32);
  const auto ids = test::integers(test::expected(variant).at("ids"));
  const auto n = static_cast<int>(ids.size());
  const auto& config = model.decoder().config();
  const auto whole = model.run(ids, {.save = {"logits"}})["logits"];
  const double bound = tolerance * std::max(1.0, test::max_magnitude(whole));

  std::vector<std::vector<int>> ways = {
      std::vector<int>(static_cast<size_t>(n), 1), {3, n - 3}};
  if (!config.same_angles(1, n)) {
    // One rotation for the short prompt, another for the long one: refused
    // where it changes, right behind that.
    for (const auto& way : ways)
      EXPECT_THROW(in_pieces(model, ids, way), Error) << variant;
    ways = {{n}};
    if (config.rope.longer) ways.push_back({n - 2, 1, 1});
  }
  for (const auto& way : ways) {
    const auto pieces = in_pieces(model, ids, way);
    ASSERT_EQ(pieces.size(), whole.size()) << variant;
    const double error = test::max_difference(pieces, whole);
    std::printf(
        "%-34s %2zu pieces, %5zu logits within %.1e\n",
        variant.c_str(),
        way.size(),
        pieces.size(),
        error);
    EXPECT_LE(error, bound) << variant;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All,
    FamilyCache,
    testing::ValuesIn(test::supported_variants()),
    [](const auto& variant) { return test::test_name(variant.param); });

TEST(KvCache, EveryFamilyIsTried) {
  EXPECT_EQ(test::supported_variants().size(), test::n_variants - 1);
}

TEST(KvCache, SitesHoldTheNewPositionsAndPatternsAllSources) {
  const auto model = test::tiny_model();
  const std::vector<std::string> sites = {
      "layers.1.attn.{q,k,rot_k,z,scores,pattern}", "layers.1.resid_post"};
  const auto whole = model.run(prompt, {.save = sites});
  KvCache cache;
  model.run({3, 14, 15, 92, 65}, {.save = {}, .cache = &cache});
  const auto rest = model.run({35, 89, 79}, {.save = sites, .cache = &cache});
  EXPECT_EQ(cache.layers.size(), 3u);
  EXPECT_EQ(cache.layers[1].positions, 8);
  EXPECT_EQ(cache.layers[1].held, 8);
  EXPECT_EQ(rest["layers.1.attn.pattern"].shape(), (mx::Shape{1, 6, 3, 8}));
  EXPECT_EQ(rest.lengths(), std::vector<int>{3});
  for (const auto& [name, value] : rest) {
    const int axis =
        name.ends_with("scores") || name.ends_with("pattern") ? 2 : 1;
    const auto last = mx::take(whole[name], mx::arange(5, 8), axis);
    test::expect_close(value, last, 1e-5, last.size(), name);
  }
}

TEST(KvCache, EditsOfTheNewPositionsReachThoseBehindThem) {
  const auto model = test::tiny_model();
  const std::vector<Edit> edits = {
      {"layers.0.attn.v", scale(0.5f)},
      {"layers.1.attn.rot_k", scale(2.0f)},
      {"layers.*.attn.pattern", scale(0.9f)}};
  const auto whole =
      model.run(prompt, {.save = {"logits"}, .edits = edits})["logits"];
  test::expect_close(
      in_pieces(model, prompt, {2, 1, 5}, edits),
      whole,
      1e-5,
      8 * 97,
      "edited");
}

// Positions count from the beginning of the prompt, whatever piece they are in.
TEST(KvCache, EditsAtPositionsAreThoseOfTheWholePrompt) {
  const auto model = test::tiny_model();
  const auto at = [](std::vector<int> positions) {
    return std::vector<Edit>{
        {"layers.1.mlp_out", at_positions(std::move(positions), scale(-3.0f))}};
  };
  const std::vector<int> head(prompt.begin(), prompt.begin() + 5);
  const std::vector<int> rest(prompt.begin() + 5, prompt.end());
  for (const int position : {5, 6, 7}) {
    const auto whole = model.run(
        prompt, {.save = {"logits"}, .edits = at({position})})["logits"];
    KvCache cache;
    (void)model.run(head, {.save = {}, .cache = &cache});
    const auto after = model.run(
        rest, {.save = {"logits"}, .edits = at({position}), .cache = &cache});
    test::expect_close(
        after["logits"],
        mx::take(whole, mx::arange(5, 8), 1),
        1e-5,
        3 * 97,
        "position " + std::to_string(position));
    EXPECT_GT(
        test::max_difference(
            whole, model.run(prompt, {.save = {"logits"}})["logits"]),
        1e-3);
  }
  // A position that the piece does not hold is an error, not another one.
  KvCache cache;
  (void)model.run(head, {.save = {}, .cache = &cache});
  for (const int position : {0, 4, 8})
    EXPECT_THROW(
        (void)model.run(
            rest,
            {.save = {"logits"}, .edits = at({position}), .cache = &cache}),
        Error)
        << position;
  EXPECT_EQ(cache.positions(), 5);
}

TEST(KvCache, ABatchOfOneLength) {
  const auto model = test::tiny_model();
  KvCache cache;
  model.run(Inputs::Rows{{3, 14}, {92, 65}}, {.save = {}, .cache = &cache});
  const auto rest = model.run(
      Inputs::Rows{{15}, {35}}, {.save = {"logits"}, .cache = &cache});
  const auto first = model.run({3, 14, 15}, {.save = {"logits"}})["logits"];
  test::expect_close(
      mx::take(rest["logits"], mx::array({0}), 0),
      mx::take(first, mx::array({2}), 1),
      1e-5,
      97,
      "first row");
}

TEST(KvCache, ACopyGoesOnByItself) {
  const auto model = test::tiny_model();
  KvCache cache;
  model.run({3, 14}, {.save = {}, .cache = &cache});
  auto other = cache;
  model.run({15}, {.save = {}, .cache = &other});
  EXPECT_EQ(cache.positions(), 2);
  EXPECT_EQ(other.positions(), 3);
}

void expect_refused(
    const std::function<void(KvCache&)>& misuse,
    KvCache& cache,
    const std::string& says) {
  const int before = cache.positions();
  try {
    misuse(cache);
    ADD_FAILURE() << "it was accepted; " << says;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage) << error.what();
    EXPECT_NE(std::string(error.what()).find(says), std::string::npos)
        << error.what();
  }
  EXPECT_EQ(cache.positions(), before);
  for (const auto& layer : cache.layers)
    EXPECT_EQ(layer.held, before);
}

TEST(KvCache, MisuseIsRefusedAndLeavesItAsItWas) {
  const auto model = test::tiny_model(), other = test::tiny_model();
  KvCache cache;
  const auto run = [&](const InterpretableModel& on, const Inputs& inputs) {
    return [&, inputs](KvCache& c) {
      on.run(inputs, {.save = {"logits"}, .cache = &c});
    };
  };
  expect_refused(
      run(model, Inputs::Rows{{1, 2}, {3}}), cache, "run them one at a time");
  run(model, prompt)(cache);
  expect_refused(run(other, {1}), cache, "give each model a cache of its own");
  expect_refused(
      run(model, Inputs::Rows{{1}, {2}}), cache, "start with an empty cache");
  std::vector<int> many(57, 1);
  expect_refused(run(model, many), cache, "context is 64; start with");
  many.pop_back();
  run(model, many)(cache);
  EXPECT_EQ(cache.positions(), 64);
  expect_refused(run(model, {1}), cache, "context is 64");
  // An edit that fails in the middle of the pass.
  KvCache fresh;
  expect_refused(
      [&](KvCache& c) {
        model.run(
            prompt,
            {.save = {"logits"},
             .edits =
                 {{"layers.1.mlp_out",
                   [](mx::array x) { return mx::expand_dims(x, 0); }}},
             .cache = &c});
      },
      fresh,
      "returned");
}

TEST(KvCache, ALengthThatTurnsOtherwiseIsRefused) {
  const auto model = test::load_variant("llama-rope-dynamic-long", mx::float32);
  const int context = model.decoder().config().rope.dynamic->context;
  std::vector<int> ids(static_cast<size_t>(context));
  std::iota(ids.begin(), ids.end(), 1);
  KvCache cache;
  model.run(ids, {.save = {}, .cache = &cache});
  expect_refused(
      [&](KvCache& c) { model.run({1}, {.save = {}, .cache = &c}); },
      cache,
      "all positions at once");
  // Nor do they run as one batch, where each has the longest one's rotation.
  auto longer = ids;
  longer.push_back(1);
  EXPECT_THROW(model.run(Inputs::Rows{ids, longer}, {}), Error);
  EXPECT_NO_THROW(model.run(Inputs::Rows{longer, longer}, {}));
}

}  // namespace
}  // namespace mlxterp
