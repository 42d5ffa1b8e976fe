#include "nn/cuda/packed_rows.h"

#include <fmt/format.h>

#include <limits>

#include "mlx/ops.h"
#include "nn/cuda/launch.h"
#include "nn/cuda/packed_rows_ptx.h"

namespace mx = mlx::core;

namespace mlxterp::cuda {

namespace {

// From here on unpacking first is as fast (H200, an 8B in 4 bit).
constexpr size_t most_rows = 32;
constexpr int tile = 16;  // rows of x

bool serves(const mx::array& x, const Packed& packed) {
  constexpr size_t most = std::numeric_limits<int>::max();  // its indices
  const auto dtype = mx::bfloat16;
  return packed.mode == "affine" && (packed.bits == 4 || packed.bits == 8) &&
         packed.group >= 32 && !packed.scale_of_scales &&
         !packed.global_scale && x.dtype() == dtype &&
         packed.scales.dtype() == dtype && packed.biases->dtype() == dtype &&
         packed.words.ndim() == 2 && packed.words.shape(0) % 2 == 0 &&
         packed.words.size() <= most && x.size() > 0;
}

}  // namespace

std::optional<mx::array> packed_rows(const mx::array& x, const Packed& packed) {
  if (!runs_kernels() || !serves(x, packed)) return std::nullopt;
  const int columns = x.shape(-1), n = packed.words.shape(0);
  const size_t rows = x.size() / static_cast<size_t>(columns);
  if (rows > most_rows) return std::nullopt;
  const int m = static_cast<int>(rows), tiles = m <= tile ? 1 : 2;
  auto shape = x.shape();
  shape.back() = n;
  const auto& kernel = *packed_rows_kernels.find(
      fmt::format("packed_rows_{}_{}", packed.bits, tiles));
  // Two steps of x: twice 128 numbers of a row in 320 bytes each.
  const int memory = 2 * 2 * tile * tiles * 320;
  return launch(
      kernel,
      {x, packed.words, packed.scales, *packed.biases},
      {shape},
      {mx::bfloat16},
      {m, n, columns, packed.group},
      {(n + 127) / 128, 256, memory})[0];
}

}  // namespace mlxterp::cuda
