#include "mlxterp/nn/causal_conv.h"

#include <cmath>

#include "mlx/ops.h"
#include "mlx/random.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

// Positions of [batch, pos, d].
mx::array positions(const mx::array& x, int from, int to) {
  return mx::slice(x, {0, from, 0}, {x.shape(0), to, x.shape(2)});
}

mx::array drawn(int d, int width) {
  const float bound = 1.0f / std::sqrt(static_cast<float>(width));
  return mx::random::uniform(-bound, bound, {d, width});
}

}  // namespace

CausalConv::CausalConv(int d, int width, bool with_bias)
    : weight(drawn(d, width)) {
  describe({.width = d}, {.width = d});
  add("weight", weight);
  if (with_bias) add("bias", bias.emplace(mx::zeros({d})));
}

mx::array CausalConv::forward(const mx::array& x, Pass& pass) const {
  std::optional<mx::array> before;
  const int held = pass.cache_offset();
  if (auto* cache = pass.cache()) {
    const auto kept = cache->kept(this, held, x.shape(0));
    before = kept.empty()
                 ? mx::zeros(
                       {x.shape(0), weight.shape(1) - 1, x.shape(2)}, x.dtype())
                 : kept[0];
    const auto all = mx::concatenate({*before, x}, 1);
    cache->keep(
        this, held + x.shape(1), {positions(all, x.shape(1), all.shape(1))});
  }
  return pass.on_sequences({x}, [&](const Pass::Arrays& rows) {
    return Pass::Arrays{filtered(rows[0], before)};
  })[0];
}

mx::array CausalConv::filtered(
    const mx::array& x, const std::optional<mx::array>& before) const {
  const int width = weight.shape(1), length = x.shape(1);
  const auto all = mx::astype(
      before ? mx::concatenate({*before, x}, 1)
             : mx::pad(x, std::vector<int>{1}, {width - 1}, {0}),
      mx::float32);
  const auto by = mx::astype(weight, mx::float32);
  std::optional<mx::array> sum;
  for (int j = 0; j < width; ++j) {
    const auto part =
        mx::multiply(positions(all, j, j + length), mx::take(by, j, 1));
    sum = sum ? mx::add(*sum, part) : part;
  }
  if (bias) sum = mx::add(*sum, mx::astype(*bias, mx::float32));
  return mx::astype(*sum, x.dtype());
}

}  // namespace mlxterp::nn
