#include "analysis/edges/blocks.h"

#include <algorithm>

#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

std::vector<EdgeBlock> contracted(
    const EdgeGraph& graph,
    const EdgeRuns& runs,
    const std::vector<mx::array>& gradients,
    float points,
    int start,
    int end,
    bool by_position) {
  std::vector<EdgeBlock> blocks;
  const auto& readers = graph.readers;
  const auto& d = runs.differences;  // [source, pos, d_model]
  const int rows = d.shape(1), width = d.shape(2);
  for (size_t i = 0; i < readers.size();) {
    std::vector<mx::array> same;
    const auto& head = readers[i];
    for (; i < readers.size() && readers[i].before == head.before; ++i)
      same.push_back(gradients[i]);
    const int sources = std::min(head.before, end) - start;
    if (sources <= 0) continue;
    const auto g = same.size() == 1 ? same[0] : mx::concatenate(same, 0);
    const auto some =
        mx::slice(d, {start, 0, 0}, {start + sources, rows, width});
    const auto product =
        by_position
            ? mx::matmul(
                  mx::transpose(some, {1, 0, 2}), mx::transpose(g, {1, 2, 0}))
            : mx::matmul(
                  mx::reshape(some, {sources, rows * width}),
                  mx::transpose(mx::reshape(g, {g.shape(0), rows * width})));
    blocks.push_back(
        {head.first,
         start,
         sources,
         mx::contiguous(mx::divide(product, mx::array(points)))});
  }
  return blocks;
}

}  // namespace mlxterp
