#include "nn/cuda/layer_slopes.h"

#include <fmt/format.h>

#include "nn/cuda/launch.h"
#include "nn/cuda/layer_slopes_ptx.h"

namespace mx = mlx::core;

namespace mlxterp::cuda {

namespace {

constexpr int threads = 256, at_a_time = 8;
// As in layer_slopes.cu.
constexpr int gain_and_scale = 1, centred = 2, stream = 4;

bool serves(const mx::array& x) {
  return runs_kernels() && x.size() > 0 && x.shape(-1) % at_a_time == 0;
}

const char* name_of(mx::Dtype dtype) {
  return dtype == mx::float32    ? "float32"
         : dtype == mx::bfloat16 ? "bfloat16"
                                 : "other";
}

}  // namespace

std::optional<mx::array> norm_slope(
    const NormDerivative& norm,
    const mx::array& rows,
    mx::Dtype to,
    const std::optional<mx::array>& onto) {
  if (!serves(rows) || (onto && onto->dtype() != mx::float32))
    return std::nullopt;
  const auto kernel = layer_slopes_kernels.find(
      fmt::format("norm_slope_{}_{}", name_of(rows.dtype()), name_of(to)));
  if (kernel == layer_slopes_kernels.end()) return std::nullopt;
  const int positions = rows.shape(0), count = rows.shape(1), d = rows.shape(2);
  const mx::array none(0.0f);
  return launch(
      *kernel,
      {rows,
       onto.value_or(none),
       norm.gain.value_or(none),
       norm.normalized,
       norm.inverse.value_or(none)},
      {rows.shape()},
      {to},
      {count,
       d,
       (norm.gain ? gain_and_scale : 0) | (norm.centred ? centred : 0) |
           (onto ? stream : 0)},
      {positions * count, threads, threads / 32 * 4})[0];
}

std::optional<mx::array> scaled_rows(
    const mx::array& a,
    const mx::array& up,
    const std::optional<mx::array>& b,
    const std::optional<mx::array>& gate) {
  if (!serves(up) || up.dtype() != mx::bfloat16 || a.dtype() != mx::bfloat16)
    return std::nullopt;
  const int positions = a.shape(0), f = up.shape(0), d = up.shape(1);
  return launch(
      *layer_slopes_kernels.find("scaled_rows_bfloat16"),
      {a, b.value_or(a), up, gate.value_or(up)},
      {{positions, f, d}},
      {mx::bfloat16},
      {positions, f, d, gate ? 1 : 0},
      {f, threads})[0];
}

}  // namespace mlxterp::cuda
