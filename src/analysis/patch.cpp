#include "mlxterp/analysis/patch.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "analysis/any_model.h"
#include "analysis/means.h"
#include "analysis/pairs.h"
#include "analysis/plain_sweep.h"
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
    const bool plain = options_.one_pass_per_cell || !decoder_of(model_);
    Averages averages(places.size());
    double run = 0, source = 0;
    for (size_t i = 0; i < pairs_.size(); ++i) {
      const auto result = plain ? plainly(i, places) : together(i, places);
      averages.add(result.cells, options_.metric.name, "patch");
      averages.add_inert(result.inert);
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
    const auto source = model_.run(pair.source, {.save = saved_names(site_)});
    const auto run = model_.run(pair.run, {.save = {"logits"}});
    const auto& clean = options_.direction == Direction::denoise ? source : run;
    std::optional<mx::array> reference;
    if (metric.needs_reference()) reference = metric.row_of(clean["logits"]);
    std::vector<std::vector<Place>> cells;
    for (const auto& cell : places)
      cells.push_back(of_pair(cell, pair));
    const PlainSource from{site_values(site_, source), pair.position_map};
    auto result =
        PlainSweep{
            .model = model_,
            .site = site_,
            .metric = metric,
            .ids = pair.run,
            .cells = cells,
            .source = from,
            .reference = reference,
            .what = "Patching",
            .progress = progress(pair_index)}
            .sweep();
    result.runs = {
        metric.of_run(run["logits"], pair.run, reference),
        metric.of_run(source["logits"], pair.source, reference)};
    return result;
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
