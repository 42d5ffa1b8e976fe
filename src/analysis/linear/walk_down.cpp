#include "analysis/linear/walk_down.h"

#include <algorithm>
#include <utility>

#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

void walk_down(
    const LinearRun& run,
    const mx::array& rows,
    PositionRange at,
    int lowest,
    size_t memory,
    const std::function<void(int, int, const mx::array&)>& read) {
  const int n = rows.shape(0), d = rows.shape(1), length = at.to - at.from;
  const double row_bytes =
      run.memory(at.from, at.to, n) * sizeof(float) * length * d;
  const int most = static_cast<int>(
      std::clamp(static_cast<double>(memory) / row_bytes, 1.0, double(n)));
  for (int first = 0; first < n; first += most) {
    const int last = std::min(n, first + most);
    const auto some = mx::slice(rows, {first, 0}, {last, d});
    Stream stream{
        mx::broadcast_to(mx::expand_dims(some, 0), {length, last - first, d})};
    for (int layer = run.layers() - 1; layer > lowest; --layer) {
      stream = run.transport(layer, std::move(stream), at.from);
      read(layer - 1, first, stream.x);
    }
  }
}

}  // namespace mlxterp
