#include "analysis/wavefront/plan.h"

#include <algorithm>
#include <limits>

#include "mlx/device.h"
#include "trace/overlay.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// On a GPU few large products beat many exact ones: cells that begin within
// as many positions are given the rows of the first.
constexpr int positions_together_gpu = 8;

size_t size(int n) {
  return static_cast<size_t>(n);
}

// How far what stands looks.
Overlay::Reach reach(const InterpretableModel& model) {
  const auto* overlay = model.overlay();
  return overlay ? overlay->reach() : Overlay::Reach::value;
}

// How many leading positions two runs share.
int shared(const Wavefront::Run& a, const Wavefront::Run& b) {
  const auto n = std::min(a.ids.size(), b.ids.size());
  const auto differ =
      std::mismatch(
          a.ids.begin(), a.ids.begin() + static_cast<long>(n), b.ids.begin())
          .first -
      a.ids.begin();
  return std::min({static_cast<int>(differ), a.differs_from, b.differs_from});
}

// Without the positions where both runs have the same value.
Wavefront::Change narrowed(
    const Wavefront& wave,
    Wavefront::Change change,
    const Wavefront::Run& run,
    const Wavefront::Run& source) {
  // Equal tokens make equal values only where nothing looks further.
  const auto far = reach(wave.model);
  if (far == Overlay::Reach::sequence) return change;
  if (far == Overlay::Reach::position && run.ids.size() != source.ids.size())
    return change;
  const auto& map = wave.position_map;
  int same = shared(run, source);
  for (int p = 0; p < same && !map.empty(); ++p)
    if (map[size(p)] != p) same = p;
  change.from = std::max(change.from, same);
  // What enters layer 0 knows no other positions.
  const auto& site = wave.sites[change.site];
  const bool embedded =
      change.first_layer == 0 && change.last_layer == 0 && map.empty() &&
      !run.embedded && !source.embedded &&
      site.ids[0] == wave.model.decoder().layers[0]->input_site();
  if (embedded) {
    const auto equal = [&](int p) {
      return run.ids[size(p)] == source.ids[size(p)];
    };
    while (change.from <= change.to && equal(change.from))
      ++change.from;
    while (change.from <= change.to && equal(change.to))
      --change.to;
  }
  return change;
}

// Whether nothing reads what it changes: behind the last attention a position
// knows itself alone, and the metric reads one.
bool unread(
    const Wavefront& wave,
    const Wavefront::Change& change,
    const Wavefront::Run& run) {
  if (wave.metric.every_position() || !wave.keep.empty()) return false;
  const int layers = wave.model.decoder().config().n_layers;
  const auto id = wave.sites[change.site].ids.back();
  const bool behind = change.first_layer >= layers ||
                      (change.first_layer == layers - 1 && id >= 0 &&
                       wave.model.sites()[id].stage == Stage::after);
  const int read = wave.metric.position_in(static_cast<int>(run.ids.size()));
  return behind && (read < change.from || read > change.to);
}

}  // namespace

std::vector<Plan> make_plans(const Wavefront& wave) {
  const bool on_gpu = mx::default_device() == mx::Device::gpu;
  const int together = wave.positions_together > 0 ? wave.positions_together
                       : on_gpu                    ? positions_together_gpu
                                                   : 1;
  const int layers = wave.model.decoder().config().n_layers;
  const bool whole = reach(wave.model) == Overlay::Reach::sequence;
  std::vector<Plan> plans;
  for (size_t i = 0; i < wave.cells.size(); ++i) {
    const auto& cell = wave.cells[i];
    const auto& run = wave.runs[size(cell.run)];
    Plan plan{i, cell.run, std::numeric_limits<int>::max(), layers + 1, {}};
    for (auto change : cell.changes) {
      if (change.source == cell.run) {  // held, not changed
        plan.changes.push_back(change);
        continue;
      }
      if (change.source >= 0)
        change = narrowed(wave, change, run, wave.runs[size(change.source)]);
      if (change.from > change.to) continue;
      if (!whole && unread(wave, change, run)) continue;
      plan.first = std::min(plan.first, change.from);
      plan.join = std::min(plan.join, change.first_layer);
      plan.changes.push_back(change);
    }
    if (plan.join > layers) continue;
    plan.first = whole ? 0 : plan.first / together * together;
    plans.push_back(std::move(plan));
  }
  std::ranges::stable_sort(plans, {}, &Plan::join);
  return plans;
}

}  // namespace mlxterp
