// A layer that is taken apart, as a CPU and as a GPU go through it.

#include "analysis/linear/plain_layer.h"

#include <gtest/gtest.h>

#include <iostream>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "tests/analysis/whole_model.h"
#include "tests/families.h"
#include "trace/stepper.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using test::apart;

constexpr int length = 9, from = 2, to = 8;

mx::array tokens_of(const InterpretableModel& model) {
  const int vocab = model.decoder().config().vocab;
  std::vector<int> ids;
  for (int i = 0; i < length; ++i)
    ids.push_back((7 + 5 * i + i * i) % vocab);
  return mx::array(ids.data(), {1, length}, mx::int32);
}

// By MLX, a row of the batch each: [pos, row, d].
mx::array differentiated(
    const InterpretableModel& model,
    int layer,
    const mx::array& x,
    const mx::array& rows) {
  const int d = x.shape(2), count = rows.shape(1);
  const auto all = mx::broadcast_to(x, {count, length, d});
  const auto run = [&](const std::vector<mx::array>& in) {
    Stepper stepper(model);
    return std::vector{
        mx::slice(stepper.layer(layer, in[0]), {0, from, 0}, {count, to, d})};
  };
  const auto gradient =
      mx::vjp(run, {all}, {mx::swapaxes(rows, 0, 1)}).second[0];
  return mx::swapaxes(mx::slice(gradient, {0, from, 0}, {count, to, d}), 0, 1);
}

}  // namespace

TEST(PlainLayer, GoesThroughInPlaceAndRoundedAsSideBySide) {
  float worst = 0, worst_rounded = 0;
  size_t compared = 0;
  for (const auto& variant : test::supported_variants()) {
    const auto model = test::load_variant(variant, mx::float32);
    Stepper stepper(model);
    auto x = stepper.embed(tokens_of(model));
    const int d = model.decoder().config().d_model;
    for (int layer = 0; layer < model.decoder().config().n_layers; ++layer) {
      x.eval();
      if (!stepper.carried().empty() ||
          !PlainLayer::knows(model, layer, from, to))
        break;
      // Few take other products than many.
      for (const int count : {5, d}) {
        const auto rows = mx::random::normal(
            {to - from, count, d},
            mx::float32,
            0,
            1,
            mx::random::key(static_cast<uint64_t>(count)));
        mx::eval(rows);
        const auto before = mx::add(rows, mx::array(0.0f));
        mx::eval(before);
        const auto through = [&](mx::Dtype numbers, bool in_place) {
          const PlainLayer apart(
              model, layer, x, from, to, {numbers, in_place});
          auto out = apart.transport(rows);
          // What somebody else has is not written over.
          EXPECT_TRUE(mx::array_equal(rows, before).item<bool>()) << variant;
          return out;
        };
        const auto wanted = differentiated(model, layer, x, rows);
        for (const bool in_place : {false, true}) {
          const auto off = apart(through(mx::float32, in_place), wanted);
          EXPECT_LE(off, 1e-5f) << variant << ", layer " << layer;
          worst = std::max(worst, off);
        }
        const auto rounded = through(mx::bfloat16, true);
        EXPECT_EQ(rounded.dtype(), mx::float32);
        const auto off = apart(rounded, wanted);
        EXPECT_LE(off, 0.03f) << variant << ", layer " << layer;
        worst_rounded = std::max(worst_rounded, off);
        ++compared;
      }
      x = stepper.layer(layer, x);
    }
  }
  std::cout << compared << " layers and numbers of rows, " << worst
            << " at most, in bfloat16 " << worst_rounded << "\n";
  EXPECT_GE(compared, 200u);
}

}  // namespace mlxterp
