#include "core/evaluate.h"

#include <cstdint>
#include <unordered_set>
#include <utility>

#include "mlx/device.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Numbers that are computed between two looks: some tenths of a second's, in a
// model of a few hundred million parameters.
constexpr size_t piece = size_t{1} << 24;

// Values on the way, each with about a piece's work before it, in an order in
// which a value comes after what it is made of. Holds no other node: whatever
// the graph has done with can go.
std::vector<mx::array> stops(const std::vector<mx::array>& values) {
  struct Visit {
    mx::array node;
    size_t next = 0;  // of its inputs
  };
  std::vector<mx::array> out;
  std::vector<Visit> path;
  std::unordered_set<std::uintptr_t> seen;
  const auto enter = [&](const mx::array& node) {
    if (node.status() == mx::array::Status::unscheduled &&
        node.has_primitive() && seen.insert(node.id()).second)
      path.push_back({node});
  };
  size_t work = 0;
  for (const auto& value : values) {
    enter(value);
    while (!path.empty()) {
      auto& visit = path.back();
      if (visit.next < visit.node.inputs().size()) {
        enter(mx::array(visit.node.inputs()[visit.next++]));
        continue;
      }
      work += visit.node.size();
      if (work >= piece) {
        work = 0;
        out.push_back(visit.node);
      }
      path.pop_back();
    }
  }
  return out;
}

}  // namespace

void evaluate(
    std::vector<mx::array> values, const std::function<void()>& between) {
  if (between && mx::default_device() == mx::Device::cpu)
    for (auto& stop : stops(values)) {
      std::exchange(stop, mx::array(0)).eval();
      between();
    }
  mx::eval(std::move(values));
}

}  // namespace mlxterp
