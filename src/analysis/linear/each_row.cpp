#include "analysis/linear/each_row.h"

#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp {

bool maps_rows(const DecoderLayer& layer) {
  return !layer.moe && mx::default_device() == mx::Device::cpu;
}

std::vector<mx::array> each_row(
    const EachRow& back, const std::vector<mx::array>& rows, bool mapped) {
  if (!mapped) return back(rows);
  const auto one = [&](std::vector<mx::array> row) {
    for (auto& it : row)
      it = mx::expand_dims(it, 0);
    auto out = back(row);
    for (auto& it : out)
      it = mx::squeeze(it, 0);
    return out;
  };
  return mx::vmap(one)(rows);
}

}  // namespace mlxterp
