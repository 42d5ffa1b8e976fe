#include "trace/carried_rows.h"

#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

Carried positions(const Carried& all, int from, int to) {
  return each(all, [&](const mx::array& value) {
    auto first = mx::Shape(value.ndim(), 0), last = value.shape();
    first[1] = from;
    last[1] = to;
    return mx::slice(value, first, last);
  });
}

Carried positions(const Carried& all, const mx::array& which) {
  return each(
      all, [&](const mx::array& value) { return mx::take(value, which, 1); });
}

Carried concatenate(const std::vector<Carried>& parts, int axis) {
  if (parts.size() == 1) return parts[0];
  Carried out;
  for (const auto& [name, first] : parts[0]) {
    std::vector<mx::array> values;
    for (const auto& part : parts)
      values.push_back(part.at(name));
    out.emplace(name, mx::concatenate(std::move(values), axis));
  }
  return out;
}

}  // namespace mlxterp
