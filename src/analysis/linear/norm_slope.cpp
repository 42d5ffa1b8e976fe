#include "analysis/linear/norm_slope.h"

#include "mlx/ops.h"
#include "nn/cuda/layer_slopes.h"

namespace mx = mlx::core;

namespace mlxterp {

mx::array back(const NormSlope& it, const mx::array& rows, mx::Dtype to) {
  if (auto out = cuda::norm_slope(
          {.normalized = it.normalized,
           .centred = it.centred,
           .gain = it.gain,
           .inverse = it.inverse},
          rows,
          to))
    return *out;
  const auto normalized = mx::expand_dims(it.normalized, -2);
  const auto t = mx::multiply(rows, it.gain);
  auto out = mx::subtract(
      t,
      mx::multiply(
          normalized, mx::mean(mx::multiply(t, normalized), -1, true)));
  if (it.centred) out = mx::subtract(out, mx::mean(t, -1, true));
  return mx::astype(mx::multiply(out, mx::expand_dims(it.inverse, -2)), to);
}

Columns columns_of(const NormSlope& it, mx::Dtype dtype) {
  auto c = mx::expand_dims(it.normalized, -1);
  if (it.centred) c = mx::concatenate({c, mx::ones_like(c)}, -1);
  const auto d = static_cast<float>(it.normalized.shape(-1));
  const auto away = mx::multiply(mx::swapaxes(c, -1, -2), mx::array(-1.0f / d));
  return {mx::astype(c, dtype), mx::astype(away, dtype)};
}

mx::array added_through(
    const NormSlope& it, const mx::array& rows, const mx::array& onto) {
  if (auto out = cuda::norm_slope(
          {.normalized = it.normalized, .centred = it.centred},
          rows,
          mx::float32,
          onto))
    return *out;
  const auto taken = columns_of(it, rows.dtype());
  return mx::add(onto, mx::addmm(rows, mx::matmul(rows, taken.c), taken.away));
}

}  // namespace mlxterp
