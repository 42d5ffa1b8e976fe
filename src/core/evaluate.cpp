#include "core/evaluate.h"

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <unordered_set>
#include <utility>

#include "mlx/device.h"
#include "mlx/memory.h"
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

// On a GPU MLX takes memory for what it queues, not for what runs: a packed
// model's matrices would all be unpacked at once. Here it waits before it takes
// more than an eighth of what is held.
class Bounded {
 public:
  Bounded() {
    if (!on_gpu_) return;
    const std::lock_guard lock(mutex);
    if (users++ > 0) return;
    constexpr size_t least = size_t{1} << 29;
    const size_t held = mx::get_active_memory();
    usual = mx::get_memory_limit();
    mx::set_memory_limit(std::min(usual, held + std::max(held / 8, least)));
  }
  ~Bounded() {
    if (!on_gpu_) return;
    const std::lock_guard lock(mutex);
    if (--users == 0) mx::set_memory_limit(usual);
  }
  Bounded(const Bounded&) = delete;
  Bounded& operator=(const Bounded&) = delete;

 private:
  // MLX's limit is one for all threads: the last one out puts it back.
  static inline std::mutex mutex;
  static inline int users = 0;
  static inline size_t usual = 0;
  const bool on_gpu_ = mx::default_device() == mx::Device::gpu;
};

}  // namespace

void evaluate(
    std::vector<mx::array> values, const std::function<void()>& between) {
  if (mx::default_device() == mx::Device::cpu)
    for (auto& stop : stops(values)) {
      std::exchange(stop, mx::array(0)).eval();
      if (between) between();
    }
  const Bounded bounded;
  mx::eval(std::move(values));
}

}  // namespace mlxterp
