#include "mlxterp/analysis/patch.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "analysis/means.h"
#include "analysis/pairs.h"
#include "analysis/readout.h"
#include "analysis/sites.h"
#include "analysis/wavefront/wavefront.h"
#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

class Patcher {
 public:
  Patcher(const InterpretableModel& model, const PatchOptions& options)
      : model_(model),
        options_(options),
        site_(layer_site(model, options.site)),
        pairs_(make_pairs("patch", model, options)),
        grid_(make_grid("patch", model, options, site_, pairs_)),
        metrics_(readouts("patch", model, options.metric, pairs_)) {
    out_.axes = grid_.axes;
  }

  Sweep sweep() {
    const auto& places = grid_.cells;
    Averages averages(places.size());
    double run = 0, source = 0;
    for (size_t i = 0; i < pairs_.size(); ++i) {
      const auto result =
          options_.one_pass_per_cell ? plainly(i, places) : together(i, places);
      averages.add(result.cells, options_.metric.name, "patch");
      run += static_cast<double>(result.runs[0]);
      source += static_cast<double>(result.runs[1]);
      out_.computed += result.computed;
      out_.rows += result.rows;
    }
    const auto pairs = static_cast<double>(pairs_.size());
    averages.put(out_);
    const bool denoise = options_.direction == Direction::denoise;
    out_.clean = static_cast<float>((denoise ? source : run) / pairs);
    out_.corrupt = static_cast<float>((denoise ? run : source) / pairs);
    out_.direction = options_.direction;
    out_.pairs = pairs_.size();
    out_.ids = pairs_[0].run;
    return std::move(out_);
  }

 private:
  Wavefront::Result together(
      size_t pair_index, const std::vector<std::vector<Place>>& places) const {
    const auto& pair = pairs_[pair_index];
    Wavefront wave{
        .model = model_,
        .runs = {{pair.run}, {pair.source}},
        .position_map = pair.position_map,
        .sites =
            {{.ids = site_.ids,
              .layout = site_.pattern ? Layout::heads : site_.layout,
              .from_pattern = site_.pattern}},
        .cells = {},
        .metric = metrics_[pair_index],
        .reference = options_.direction == Direction::denoise ? 1 : 0,
        .memory = options_.memory,
        .progress = progress(pair_index),
    };
    for (const auto& cell : places) {
      auto& [run, changes] = wave.cells.emplace_back();
      for (const auto& place : of_pair(cell, pair))
        changes.push_back(
            {.first_layer = place.first_layer + site_.shift,
             .last_layer = place.last_layer + site_.shift,
             .from = place.from,
             .to = place.to,
             .unit = place.unit,
             .source = 1});
    }
    return wave.sweep();
  }

  Progress progress(size_t pair) const {
    if (!options_.progress) return {};
    return [this, pair](std::string_view what, double done) {
      options_.progress(
          what,
          (static_cast<double>(pair) + done) /
              static_cast<double>(pairs_.size()));
    };
  }

  // One forward pass a cell.
  Wavefront::Result plainly(
      size_t pair_index, const std::vector<std::vector<Place>>& places) const {
    const auto& pair = pairs_[pair_index];
    const auto& metric = metrics_[pair_index];
    const auto report = progress(pair_index);
    std::vector<std::string> save = {"logits"};
    for (size_t i = 0; i < site_.ids.size(); ++i)
      if (site_.ids[i] >= 0) save.push_back(site_.name_of(static_cast<int>(i)));
    const auto source = model_.run(pair.source, {.save = save});
    const auto run = model_.run(pair.run, {.save = {"logits"}});
    const auto& clean = options_.direction == Direction::denoise ? source : run;
    std::optional<mx::array> reference;
    if (metric.needs_reference()) reference = row(clean["logits"], metric);

    Wavefront::Result result;
    result.runs = {
        read(run["logits"], pair.run, metric, reference),
        read(source["logits"], pair.source, metric, reference)};
    for (const auto& cell : places) {
      std::vector<Edit> edits;
      for (const auto& place : of_pair(cell, pair))
        for (int i = place.first_layer; i <= place.last_layer; ++i) {
          const auto name = site_.name_of(i);
          edits.push_back({name, taken(place, pair, source[name])});
        }
      result.cells.push_back(read(
          model_.run(pair.run, {.save = {"logits"}, .edits = edits})["logits"],
          pair.run,
          metric,
          reference));
      if (report)
        report(
            "Patching",
            static_cast<double>(result.cells.size()) /
                static_cast<double>(places.size()));
    }
    result.computed = places.size();
    result.rows = places.size() * pair.run.size() *
                  static_cast<size_t>(model_.decoder().config().n_layers);
    return result;
  }

  // The value with the place's part as it is in `source`.
  Intervention taken(
      const Place& place, const Pair& pair, const mx::array& source) const {
    std::vector<int> to, from;
    for (int p = place.from; p <= place.to; ++p) {
      to.push_back(p);
      from.push_back(
          pair.position_map.empty()
              ? p
              : pair.position_map[static_cast<size_t>(p)]);
    }
    const int axis = site_.layout == Layout::scores ? 2 : 1;
    const mx::array rows(
        from.data(), {static_cast<int>(from.size())}, mx::int32);
    auto part = mx::take(source, rows, axis);
    auto inner = [part, unit = place.unit, this](const mx::array&) {
      if (unit < 0) return part;
      return mx::take(
          part,
          mx::array({unit}, {1}, mx::int32),
          site_.layout == Layout::scores ? 1 : 2);
    };
    if (place.unit < 0) return at_positions(to, inner);
    if (site_.heads > 0) return at_positions(to, on_heads({place.unit}, inner));
    return at_positions(to, on_neurons({place.unit}, inner));
  }

  static mx::array row(const mx::array& logits, const Readout& metric) {
    const int at = metric.position_in(logits.shape(1));
    return mx::astype(
        mx::squeeze(mx::take(logits, mx::array({at}, {1}, mx::int32), 1)),
        mx::float32);
  }

  static float read(
      const mx::array& logits,
      const std::vector<int>& ids,
      const Readout& metric,
      const std::optional<mx::array>& reference) {
    if (metric.whole_run)
      return metric
          .values(
              mx::astype(mx::squeeze(logits, 0), mx::float32), reference, {})
          .item<float>();
    if (metric.every_position()) {
      const int n = logits.shape(1);
      const auto rows = mx::astype(
          mx::squeeze(
              mx::slice(logits, {0, 0, 0}, {1, n - 1, logits.shape(2)}), 0),
          mx::float32);
      const std::vector<int> next(ids.begin() + 1, ids.end());
      return mx::mean(metric.values(rows, reference, next)).item<float>();
    }
    auto one = mx::expand_dims(row(logits, metric), 0);
    if (const auto columns = metric.columns(); !columns.empty())
      one = mx::take(
          one,
          mx::array(
              columns.data(), {static_cast<int>(columns.size())}, mx::int32),
          1);
    return metric.values(one, reference, {}).item<float>();
  }

  const InterpretableModel& model_;
  const PatchOptions& options_;
  LayerSite site_;
  std::vector<Pair> pairs_;
  Grid grid_;
  std::vector<Readout> metrics_;
  Sweep out_;
};

}  // namespace

Sweep patch(const InterpretableModel& model, const PatchOptions& options) {
  return Patcher(model, options).sweep();
}

}  // namespace mlxterp
