#include "nn/cuda/few_rows.h"

#include <fmt/format.h>

#include "mlx/ops.h"
#include "nn/cuda/few_rows_ptx.h"
#include "nn/cuda/launch.h"

namespace mx = mlx::core;

namespace mlxterp::cuda {

namespace {

// From here on a BLAS is as fast; it is for one row, too.
constexpr size_t most_rows = 32;

bool serves(const mx::array& x, const mx::array& w) {
  const auto dtype = mx::bfloat16;
  return x.dtype() == dtype && w.dtype() == dtype && w.ndim() == 2 &&
         x.size() > 0 && w.size() > 0 && w.shape(1) % 32 == 0 &&
         !x.is_tracer() && !w.is_tracer() &&
         // A view in another order would be copied at each product.
         (w.status() == mx::array::unscheduled || w.flags().row_contiguous);
}

}  // namespace

std::optional<mx::array> few_rows(const mx::array& x, const mx::array& w) {
  if (!runs_kernels() || !serves(x, w)) return std::nullopt;
  const int columns = w.shape(1), n = w.shape(0);
  const size_t rows = x.size() / static_cast<size_t>(columns);
  if (rows < 2 || rows > most_rows) return std::nullopt;
  // Enough blocks for every processor of a large card.
  const int m = static_cast<int>(rows), wide = n < 4096 ? 2 : 4;
  const int eights = m <= 8 ? 1 : m <= 16 ? 2 : 4;
  auto shape = x.shape();
  shape.back() = n;
  const auto& kernel =
      *few_rows_kernels.find(fmt::format("few_rows_{}_{}", eights, wide));
  const int blocks = (n + 8 * wide - 1) / (8 * wide);
  // The sums of eight warps.
  const int memory = 8 * ((eights + 1) / 2) * wide * 128 * 4;
  return launch(
      kernel,
      {x, w},
      {shape},
      {mx::bfloat16},
      {m, n, columns},
      {blocks, 256, memory})[0];
}

}  // namespace mlxterp::cuda
