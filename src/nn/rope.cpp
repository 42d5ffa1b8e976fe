#include "mlxterp/nn/rope.h"

#include <algorithm>
#include <cmath>

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "nn/simd/fused.h"
#include "nn/simd/kernels.h"

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

// Radians to positions of each pair, inverted.
std::vector<float> speeds(
    size_t pairs, float base, const std::vector<float>& periods) {
  std::vector<float> by(pairs);
  const float step = std::log(base) / static_cast<float>(pairs);
  for (size_t i = 0; i < pairs; ++i)
    by[i] = periods.empty() ? std::exp(-static_cast<float>(i) * step)
                            : 1.0f / periods[i];
  return by;
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
  const auto plain = [=,
                      chosen = chosen,
                      n = dims,
                      pairwise = interleaved,
                      by = scale,
                      factor =
                          attention_factor](const std::vector<mx::array>& in) {
    std::optional<mx::array> freqs;
    if (!chosen.empty())
      freqs = mx::array(chosen.data(), {static_cast<int>(chosen.size())});
    auto y = mx::fast::rope(
        in[0],
        n,
        pairwise,
        freqs ? std::nullopt : std::optional(base),
        by,
        offset,
        freqs);
    if (factor != 1.0f) y = scale_leading(y, n, factor);
    return std::vector{y};
  };
  if (!simd::applies_to(x) || x.ndim() != 4 || dims % 2 != 0)
    return plain({x})[0];
  const auto pairs = static_cast<size_t>(dims / 2);
  return simd::fused(
      "rope",
      x.shape(),
      {x},
      plain,
      [pairs, offset, self = *this, by = speeds(pairs, base, chosen)](
          const std::vector<mx::array>& in, float* out) {
        const auto size = [&](int axis) {
          return static_cast<size_t>(in[0].shape(axis));
        };
        const size_t positions = size(2);
        std::vector<float> cosines(positions * pairs), sines(cosines.size());
        for (size_t i = 0; i < cosines.size(); ++i) {
          const size_t position = i / pairs + static_cast<size_t>(offset);
          const float angle =
              static_cast<float>(position) * self.scale * by[i % pairs];
          cosines[i] = self.attention_factor * std::cos(angle);
          sines[i] = self.attention_factor * std::sin(angle);
        }
        const auto& strides = in[0].strides();
        simd::rotate(
            {.batch = size(0),
             .heads = size(1),
             .positions = positions,
             .d_head = size(3),
             .dims = 2 * pairs,
             .interleaved = self.interleaved,
             .cosines = cosines.data(),
             .sines = sines.data()},
            {in[0].data<float>(),
             {strides[0], strides[1], strides[2], strides[3]}},
            out);
      });
}

}  // namespace mlxterp::nn
