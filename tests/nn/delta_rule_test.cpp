// The gated delta rule by stretches is the rule position by position, and an
// edited memory is what later positions go on from.

#include "nn/delta_rule.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlxterp/nn/delta_net.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using nn::delta_rule;
using nn::delta_steps;
using nn::DeltaInput;

mx::array unit(const mx::array& x) {
  return mx::divide(x, mx::sqrt(mx::sum(mx::square(x), -1, true)));
}

// `stubborn`: one key for all, nothing fades, all is corrected.
DeltaInput drawn(int length, bool stubborn) {
  constexpr int batch = 2, heads = 3, d_key = 6, d_value = 5;
  mx::random::seed(static_cast<uint64_t>(length));
  const auto normal = [&](int n) {
    return mx::random::normal({batch, length, heads, n});
  };
  auto k = unit(normal(d_key));
  if (stubborn) k = mx::broadcast_to(mx::take(k, mx::array({0}), 1), k.shape());
  const auto some = mx::random::uniform({batch, length, heads, 1});
  const auto q = unit(normal(d_key)), v = normal(d_value);
  const auto g = stubborn ? mx::zeros_like(some) : mx::negative(some);
  const auto beta = stubborn ? mx::ones_like(some) : some;
  const auto initial = mx::random::normal({batch, heads, d_key, d_value});
  return DeltaInput{q, k, v, g, beta, initial};
}

TEST(DeltaRule, StretchesAreTheSteps) {
  for (const int length : {1, 2, 7, 64, 65, 150})
    for (const bool stubborn : {false, true}) {
      const auto in = drawn(length, stubborn);
      const auto fast = delta_rule(in);
      const auto slow = delta_steps(in);
      const auto what =
          fmt::format("{}{}", length, stubborn ? ", stubborn" : "");
      test::expect_close(
          fast.out, slow.out, 1e-5, size_t(2 * length * 3 * 5), what);
      test::expect_close(
          fast.state,
          mx::take(slow.states, length - 1, 1),
          1e-5,
          size_t{2 * 3 * 6 * 5},
          what + ", the memory");
    }
}

TEST(DeltaRule, AHeldMemoryIsGoneOnFrom) {
  const auto in = drawn(6, false);
  const auto plain = delta_steps(in);
  const auto at = mx::reshape(mx::arange(6), {1, 6, 1, 1, 1});
  const auto third = mx::equal(at, mx::array(2));
  const auto changed = mx::broadcast_to(third, {2, 6, 3, 1, 1});
  const auto states =
      mx::where(third, mx::zeros_like(plain.states), plain.states);
  const auto held = delta_steps(in, nn::HeldStates{states, changed});
  const auto rows = [](const mx::array& x, int from, int to) {
    auto first = mx::Shape(x.ndim(), 0), last = x.shape();
    first[1] = from;
    last[1] = to;
    return mx::slice(x, first, last);
  };
  // From an empty memory on, as if nothing had been before.
  const auto after = delta_steps(DeltaInput{
      rows(in.q, 3, 6),
      rows(in.k, 3, 6),
      rows(in.v, 3, 6),
      rows(in.g, 3, 6),
      rows(in.beta, 3, 6),
      mx::zeros_like(in.initial)});
  test::expect_close(
      rows(held.out, 0, 2),
      rows(plain.out, 0, 2),
      1e-6,
      2 * 2 * 3 * 5,
      "before");
  test::expect_close(
      rows(held.out, 2, 3),
      mx::zeros({2, 1, 3, 5}),
      0,
      2 * 3 * 5,
      "read from it");
  test::expect_close(
      rows(held.out, 3, 6), after.out, 1e-6, 2 * 3 * 3 * 5, "behind");
}

InterpretableModel tiny_recurrent() {
  auto config = test::tiny_config();
  config.mixer = [](const DecoderConfig& c,
                    int layer) -> std::unique_ptr<nn::Mixer> {
    if (layer == 1)
      return std::make_unique<nn::Attention>(attention_config(c, layer));
    nn::DeltaNetConfig delta;
    delta.d_model = c.d_model;
    delta.n_key_heads = 2;
    delta.n_value_heads = 4;
    delta.d_key = 6;
    delta.d_value = 5;
    delta.conv_width = 3;
    return std::make_unique<nn::DeltaNet>(delta);
  };
  return test::tiny_model(config);
}

const std::vector<int> prompt = {5, 11, 3, 29, 7, 13, 2};

// Editing the memory at a position as it was in another run, all later values
// are those of a prompt that began as the other.
TEST(DeltaNet, AMemoryOfAnotherRunIsCarriedAlong) {
  const auto model = tiny_recurrent();
  const std::string state = "layers.0.delta.state";
  const auto own = model.run(prompt, {.save = {state, "logits"}});
  EXPECT_EQ(own[state].shape(), (mx::Shape{1, 7, 4, 6, 5}));
  const auto replaced = [&](const mx::array& with) {
    return model.run(
        prompt,
        {.save = {state, "layers.0.delta.out", "logits"},
         .edits = {{state, replace_with(with)}}});
  };
  // Its own: nothing.
  test::expect_close(
      replaced(own[state])["logits"],
      own["logits"],
      1e-5,
      7 * 97,
      "its own memory");
  // All of them at once are what is read, position by position.
  const auto twice = replaced(mx::multiply(own[state], mx::array(2.0f)));
  const auto plain = model.run(prompt, {.save = {"layers.0.delta.out"}});
  test::expect_close(
      twice["layers.0.delta.out"],
      mx::multiply(plain["layers.0.delta.out"], mx::array(2.0f)),
      1e-5,
      7 * 4 * 5,
      "twice");
  EXPECT_GT(test::max_difference(twice["logits"], own["logits"]), 1e-3);
}

// With a cache the edit's memory goes on into the next piece.
TEST(DeltaNet, AnEditedMemoryIsCached) {
  const auto model = tiny_recurrent();
  const Intervention third = [](const mx::array& states, const SiteView& site) {
    const auto at = mx::reshape(
        mx::arange(site.offset, site.offset + states.shape(1)),
        {1, -1, 1, 1, 1});
    return mx::where(
        mx::equal(at, mx::array(2)), mx::zeros_like(states), states);
  };
  const std::vector<Edit> edits = {{"layers.*.delta.state", third}};
  const auto whole =
      model.run(prompt, {.save = {"logits"}, .edits = edits})["logits"];
  nn::KvCache cache;
  std::vector<mx::array> pieces;
  for (const auto& [from, to] : {std::pair{0, 2}, {2, 4}, {4, 7}})
    pieces.push_back(model.run(
        std::vector<int>(prompt.begin() + from, prompt.begin() + to),
        {.save = {"logits"}, .edits = edits, .cache = &cache})["logits"]);
  test::expect_close(
      mx::concatenate(pieces, 1), whole, 1e-5, 7 * 97, "in pieces");
  EXPECT_GT(
      test::max_difference(
          whole, model.run(prompt, {.save = {"logits"}})["logits"]),
      1e-3);
}

}  // namespace
}  // namespace mlxterp
