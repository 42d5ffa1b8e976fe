// tests/analysis/whole_model.h: all layers above one, differentiated at once.

#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/trace/model.h"
#include "trace/stepper.h"

namespace mlxterp::test {

/** Of cotangents [row, pos, d_model] of what leaves the last layer, the
 * gradient by a zero added to what leaves `layer`. */
inline mlx::core::array gradient_through(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    int layer,
    const mlx::core::array& cotangents) {
  namespace mx = mlx::core;
  const int length = static_cast<int>(ids.size());
  const auto prompt = mx::broadcast_to(
      mx::array(ids.data(), {1, length}, mx::int32),
      {cotangents.shape(0), length});
  const auto last = [&](const std::vector<mx::array>& added) {
    Stepper stepper(model);
    auto x = stepper.embed(prompt);
    for (int i = 0; i < model.decoder().config().n_layers; ++i) {
      x = stepper.layer(i, x);
      if (i == layer) x = mx::add(x, added[0]);
    }
    return std::vector{x};
  };
  return mx::vjp(last, {mx::zeros(cotangents.shape())}, {cotangents}).second[0];
}

/** The largest difference in units of the largest number. */
inline float apart(const mlx::core::array& a, const mlx::core::array& b) {
  namespace mx = mlx::core;
  EXPECT_EQ(a.shape(), b.shape());
  const auto most = mx::max(mx::abs(b)).item<float>();
  const auto error = mx::max(mx::abs(mx::subtract(a, b))).item<float>();
  EXPECT_TRUE(std::isfinite(error)) << "NaN";
  return error / most;
}

}  // namespace mlxterp::test
