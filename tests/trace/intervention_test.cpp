#include "mlxterp/trace/intervention.h"

#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"

namespace mlxterp {
namespace {

using test::expect_close;
using test::expect_identical;
namespace mx = mlx::core;

SiteView at(Layout layout, std::span<const int> lengths = {}) {
  return {"site", 5, layout, lengths};
}

mx::array counted(mx::Shape shape, mx::Dtype dtype = mx::float32) {
  int size = 1;
  for (const int n : shape)
    size *= n;
  return mx::reshape(mx::arange(size, dtype), shape);
}

mx::array put(
    const mx::array& x,
    const mx::array& part,
    const mx::Shape& from,
    const mx::Shape& to) {
  return mx::slice_update(x, part, from, to);
}

TEST(Intervention, PrebuiltOnesDoWhatTheySay) {
  const auto x = counted({1, 2, 3});
  const auto view = at(Layout::features);
  expect_identical(zero_out()(x, view), mx::zeros({1, 2, 3}), "zero_out");
  expect_identical(scale(2)(x, view), x * mx::array(2.0f), "scale");
  expect_identical(
      add_vector(mx::array({1.0f, 2.0f, 3.0f}))(x, view),
      x + mx::array({1.0f, 2.0f, 3.0f}),
      "add_vector");
  expect_identical(
      replace_with(7.0f)(x, view), mx::full({1, 2, 3}, 7.0f), "replace_with");
  expect_identical(
      clamp(1, 3)(x, view),
      mx::array({1.f, 1.f, 2.f, 3.f, 3.f, 3.f}, {1, 2, 3}),
      "clamp");
  expect_identical(
      clamp({}, 3)(x, view),
      mx::array({0.f, 1.f, 2.f, 3.f, 3.f, 3.f}, {1, 2, 3}),
      "clamp above");
  expect_identical(
      compose({scale(2), add_vector(mx::ones({3}))})(x, view),
      x * mx::array(2.0f) + mx::array(1.0f),
      "compose");
  EXPECT_THROW(clamp({}, {}), Error);
  EXPECT_THROW(clamp(2, 1), Error);
}

TEST(Intervention, SeededNoiseIsRepeatableAndDiffersBySite) {
  const auto x = mx::zeros({1, 64, 64});
  auto view = at(Layout::features);
  const auto first = noise(0.5f, 3)(x, view), again = noise(0.5f, 3)(x, view);
  expect_identical(first, again, "the same seed");
  EXPECT_NEAR(mx::std(first).item<float>(), 0.5f, 0.02f);
  view.site = 6;
  expect_identical(noise(0.5f, 3)(x, view), first, "the site's name counts");
  view.name = "layers.1.resid_pre";
  EXPECT_GT(test::max_difference(noise(0.5f, 3)(x, view), first), 0.1);
}

TEST(Intervention, DtypeIsKept) {
  for (const auto dtype : {mx::float16, mx::bfloat16, mx::float32}) {
    const auto x = counted({1, 2, 3}, dtype);
    for (const auto& edit :
         {zero_out(),
          scale(0.5f),
          add_vector(mx::ones({3})),
          replace_with(1.0f),
          replace_with(mx::ones({1, 2, 3})),
          clamp(0, 1),
          noise(0.1f),
          noise(0.1f, 1),
          at_positions({0}, scale(2)),
          on_neurons({1}, zero_out())})
      EXPECT_EQ(edit(x, at(Layout::features)).dtype(), dtype);
  }
}

TEST(Selector, HeadsArePickedByLayout) {
  const auto z = counted({2, 3, 4, 5});
  auto expected = put(z, mx::zeros({2, 3, 1, 5}), {0, 0, 2, 0}, {2, 3, 3, 5});
  expect_identical(
      on_heads({2}, zero_out())(z, at(Layout::heads)), expected, "head of z");
  expected = put(z, mx::zeros({2, 1, 4, 5}), {0, 2, 0, 0}, {2, 3, 4, 5});
  expect_identical(
      on_heads({-1}, zero_out())(z, at(Layout::scores)),
      expected,
      "head of a pattern");
}

TEST(Selector, PositionsCountFromEachRowsOwnEnd) {
  const std::vector<int> lengths = {2, 4};
  const auto x = counted({2, 4, 3});
  auto expected = put(x, mx::zeros({1, 1, 3}), {0, 1, 0}, {1, 2, 3});
  expected = put(expected, mx::zeros({1, 1, 3}), {1, 3, 0}, {2, 4, 3});
  expect_identical(
      at_positions({-1}, zero_out())(x, at(Layout::features, lengths)),
      expected,
      "last position of each row");
  // Row 0 has no position 2: padding is not edited by accident.
  EXPECT_THROW(
      at_positions({2}, zero_out())(x, at(Layout::features, lengths)), Error);
}

TEST(Selector, DestinationsOfAPattern) {
  const std::vector<int> lengths = {4};
  const auto pattern = counted({1, 2, 4, 4});
  const auto expected =
      put(pattern, mx::zeros({1, 2, 1, 4}), {0, 0, 3, 0}, {1, 2, 4, 4});
  expect_identical(
      at_positions({-1}, zero_out())(pattern, at(Layout::scores, lengths)),
      expected,
      "last destination");
}

TEST(Selector, TheyNest) {
  const std::vector<int> lengths = {3};
  const auto z = counted({1, 3, 2, 4});
  const auto edit =
      on_heads({1}, at_positions({0, 2}, on_neurons({3}, replace_with(-1))));
  auto expected = z;
  for (const int pos : {0, 2})
    expected =
        put(expected,
            mx::full({1, 1, 1, 1}, -1.0f),
            {0, pos, 1, 3},
            {1, pos + 1, 2, 4});
  expect_identical(edit(z, at(Layout::heads, lengths)), expected, "nested");
}

TEST(Selector, TheInnerSeesItsPartInTheOrderGiven) {
  const auto x = counted({1, 1, 4});
  const auto out = on_neurons({3, 1}, [](const mx::array& part) {
    return part + mx::array({10.0f, 20.0f});
  })(x, at(Layout::features));
  expect_identical(out, mx::array({0.f, 21.f, 2.f, 13.f}, {1, 1, 4}), "order");
}

TEST(Selector, MisuseIsAnError) {
  const auto x = counted({1, 2, 3});
  const auto view = at(Layout::features);
  EXPECT_THROW(on_neurons({3}, zero_out())(x, view), Error);
  EXPECT_THROW(on_neurons({-4}, zero_out())(x, view), Error);
  EXPECT_THROW(on_neurons({1, -2}, zero_out())(x, view), Error);  // twice
  EXPECT_THROW(on_neurons({}, zero_out()), Error);
  EXPECT_THROW(on_heads({0}, zero_out())(x, view), Error);
  EXPECT_THROW(at_positions({0}, zero_out())(x, at(Layout::other)), Error);
  EXPECT_THROW(
      on_neurons({1}, [](const mx::array& part) { return mx::sum(part, 1); })(
          x, view),
      Error);
}

// Without a cache and with one, alone and beside others.
TEST(Intervention, SeededNoiseBelongsToAPosition) {
  const auto noisy = noise(0.5f, 3);
  const std::vector<int> lengths = {4, 2};
  const auto both = noisy(mx::zeros({2, 4, 3}), at(Layout::features, lengths));
  const auto alone = noisy(mx::zeros({1, 4, 3}), at(Layout::features));
  for (int row = 0; row < 2; ++row)
    expect_identical(
        mx::slice(both, {row, 0, 0}, {row + 1, 4, 3}), alone, "a row");
  auto rest = at(Layout::features);
  rest.offset = 2;
  expect_identical(
      noisy(mx::zeros({1, 2, 3}), rest),
      mx::slice(alone, {0, 2, 0}, {1, 4, 3}),
      "behind a cache");
  const auto some = at_positions({1, 3}, noisy);
  const auto chosen = some(mx::zeros({1, 4, 3}), at(Layout::features));
  for (const int p : {1, 3})
    expect_identical(
        mx::slice(chosen, {0, p, 0}, {1, p + 1, 3}),
        mx::slice(alone, {0, p, 0}, {1, p + 1, 3}),
        "at a position");
  // A destination's noise does not depend on the sources behind it.
  const auto scores = noisy(mx::zeros({1, 2, 4, 4}), at(Layout::scores));
  auto last = at(Layout::scores);
  last.offset = 2;
  expect_identical(
      noisy(mx::zeros({1, 2, 1, 3}), last),
      mx::slice(scores, {0, 0, 2, 0}, {1, 2, 3, 3}),
      "of a destination");
  EXPECT_GT(
      test::max_difference(
          mx::slice(alone, {0, 0, 0}, {1, 1, 3}),
          mx::slice(alone, {0, 1, 0}, {1, 2, 3})),
      1e-3);
}

TEST(Intervention, OnPromptsEditsTheseAlone) {
  const auto x = counted({3, 2, 2});
  const std::vector<int> lengths = {2, 1, 2};
  const auto view = at(Layout::features, lengths);
  const auto edited = on_prompts({0, -1}, scale(0))(x, view);
  expect_identical(
      edited,
      mx::array(
          {0.f, 0.f, 0.f, 0.f, 4.f, 5.f, 6.f, 7.f, 0.f, 0.f, 0.f, 0.f},
          {3, 2, 2}),
      "prompts 0 and -1");
  expect_identical(
      on_prompts({1}, at_positions({-1}, scale(0)))(x, view),
      put(x, mx::zeros({1, 1, 2}), {1, 0, 0}, {2, 1, 2}),
      "its own last position");
  EXPECT_THROW(on_prompts({3}, scale(0))(x, view), Error);
  EXPECT_THROW(on_prompts({}, scale(0)), Error);
}

TEST(Intervention, DuringActsInAPassAsInAPrompt) {
  const auto x = counted({1, 2, 2});
  const auto view = at(Layout::features);
  expect_identical(
      during(When::prompt(), scale(0))(x, view),
      mx::zeros({1, 2, 2}),
      "prompt");
  expect_identical(
      during(When::all(), scale(0))(x, view), mx::zeros({1, 2, 2}), "all");
  EXPECT_THROW(during(When::generated(), scale(0))(x, view), Error);
  EXPECT_THROW(during(When::step(2), scale(0))(x, view), Error);
  EXPECT_THROW(during({3, 2}, scale(0)), Error);
  EXPECT_THROW(during({-1, 2}, scale(0)), Error);
}

}  // namespace
}  // namespace mlxterp
