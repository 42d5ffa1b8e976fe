#include "mlxterp/nn/alibi.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

mx::array Alibi::operator()(int dest, int src) const {
  const auto heads = static_cast<int>(slopes.size());
  const auto slope = mx::array(slopes.data(), {heads, 1, 1});
  const auto positions = mx::arange(0.0, src, mx::float32);
  const auto zero = mx::array(0.0f);
  if (!rounded) {
    const auto own = mx::slice(positions, {src - dest}, {src});
    const auto behind = mx::subtract(positions, mx::expand_dims(own, -1));
    return mx::multiply(slope, mx::minimum(behind, zero));
  }
  const auto round = [](const mx::array& x) {
    return mx::astype(mx::astype(x, mx::bfloat16), mx::float32);
  };
  const auto at = round(mx::multiply(round(slope), positions));
  const auto own = mx::slice(at, {0, 0, src - dest}, {heads, 1, src});
  const auto behind = mx::subtract(at, mx::swapaxes(own, 1, 2));
  return mx::multiply(mx::minimum(behind, zero), mx::array(scale));
}

std::vector<float> alibi_slopes(int heads) {
  const auto some = static_cast<int>(
      std::bit_floor(static_cast<unsigned>(std::max(heads, 1))));
  std::vector<float> slopes;
  for (int i = 0; i < heads; ++i) {
    // 2^-8/n, 2^-16/n, ... of n heads; of twice n, those in between.
    const double step = i < some ? i + 1 : i - some + 0.5;
    slopes.push_back(static_cast<float>(std::exp2(-8 * step / some)));
  }
  return slopes;
}

}  // namespace mlxterp::nn
