#include "mlxterp/nn/rope.h"

#include <algorithm>
#include <cmath>

#include "mlx/fast.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

// The leading dimensions times a factor; the others as they are.
mx::array scale_leading(const mx::array& x, int dims, float factor) {
  std::vector<float> factors(static_cast<size_t>(x.shape(-1)), 1.0f);
  std::fill_n(factors.begin(), dims, factor);
  const auto by = mx::array(factors.data(), {x.shape(-1)});
  return mx::multiply(x, mx::astype(by, x.dtype()));
}

}  // namespace

bool Rope::alike(int length, int other) const {
  if (dims == 0 || length == other) return true;
  if (dynamic && std::max(length, other) > dynamic->context) return false;
  return !longer || (length > longer->beyond) == (other > longer->beyond);
}

mx::array Rope::operator()(const mx::array& x, int offset) const {
  const int length = offset + x.shape(-2);
  float base = theta;
  if (dynamic && length > dynamic->context) {
    const float stretch = dynamic->factor * static_cast<float>(length) /
                              static_cast<float>(dynamic->context) -
                          (dynamic->factor - 1.0f);
    const auto d = static_cast<float>(dims);
    base *= std::pow(stretch, d / (d - 2.0f));
  }
  const auto& chosen =
      longer && length > longer->beyond ? longer->periods : periods;
  std::optional<mx::array> freqs;
  if (!chosen.empty())
    freqs = mx::array(chosen.data(), {static_cast<int>(chosen.size())});
  auto y = mx::fast::rope(
      x,
      dims,
      interleaved,
      freqs ? std::nullopt : std::optional(base),
      scale,
      offset,
      freqs);
  if (attention_factor != 1.0f) y = scale_leading(y, dims, attention_factor);
  return y;
}

}  // namespace mlxterp::nn
