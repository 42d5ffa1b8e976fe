#include "mlxterp/analysis/ablate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "analysis/any_model.h"
#include "analysis/grid.h"
#include "analysis/means.h"
#include "analysis/plain_sweep.h"
#include "analysis/readout.h"
#include "analysis/sites.h"
#include "analysis/wavefront/wavefront.h"
#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

class Ablater {
 public:
  Ablater(const InterpretableModel& model, const AblateOptions& options)
      : model_(model),
        options_(options),
        site_(layer_site(model, options.site)),
        prompts_(model.token_ids(options.prompts)),
        data_(options.data ? model.token_ids(*options.data) : prompts_) {
    if (site_.layout == Layout::scores || site_.shift > 0)
      fail(
          ErrorKind::usage,
          "[ablate] '{}' cannot be ablated; use z for heads, resid_pre for the "
          "residual stream",
          site_.relative);
    if (options.samples < 1)
      fail(
          ErrorKind::usage,
          "[ablate] {} samples; use at least one",
          options.samples);
    if (options.ablation != Ablation::zero && data_.size() < 2)
      fail(
          ErrorKind::usage,
          "[ablate] {} over {} prompt changes nothing; give data, or ablate to "
          "zero",
          options.ablation == Ablation::mean ? "a mean" : "resampling",
          data_.size());
    std::vector<size_t> lengths;
    for (const auto& prompt : prompts_)
      lengths.push_back(prompt.size());
    grid_ = make_grid(
        model,
        site_,
        {options.by,
         options.layers,
         options.positions,
         options.heads,
         options.neurons},
        lengths,
        "ablate");
    for (size_t i = 0; i < prompts_.size(); ++i) {
      metrics_.push_back(readout(model, options.metric, i, prompts_.size()));
      check_length(metrics_[i], prompts_[i].size(), "ablate");
      if (options.ablation != Ablation::zero) check_data(i);
    }
  }

  Sweep sweep() {
    const size_t n = grid_.cells.size();
    const bool plain = options_.one_pass_per_cell || !decoder_of(model_);
    Averages averages(n);
    if (options_.ablation == Ablation::mean) read_means();
    const int samples =
        options_.ablation == Ablation::resample ? options_.samples : 1;
    std::mt19937_64 random(options_.seed);
    Sweep out;
    out.axes = grid_.axes;
    double clean = 0;
    const double all = static_cast<double>(prompts_.size()) * samples;
    double done = 0;
    for (size_t i = 0; i < prompts_.size(); ++i)
      for (int s = 0; s < samples; ++s, ++done) {
        Progress progress;
        if (options_.progress)
          progress = [&](std::string_view, double part) {
            options_.progress("Ablating", (done + part) / all);
          };
        const auto result =
            plain ? plainly(i, random, progress) : one(i, random, progress);
        averages.add(result.cells, options_.metric.name, "ablate");
        averages.add_inert(result.inert);
        clean += static_cast<double>(result.runs[0]);
        out.computed += result.computed;
        out.rows += result.rows;
      }
    averages.put(out);
    out.clean = static_cast<float>(clean / all);
    out.corrupt = std::numeric_limits<float>::quiet_NaN();
    out.direction = Direction::noise;
    out.pairs = prompts_.size();
    out.ids = prompts_[0];
    return out;
  }

 private:
  void check_data(size_t prompt) const {
    size_t fitting = 0;
    for (const auto& other : data_)
      fitting +=
          other.size() >= prompts_[prompt].size() &&
          (options_.ablation == Ablation::mean || other != prompts_[prompt]);
    if (fitting == 0)
      fail(
          ErrorKind::usage,
          "[ablate] prompt {} has {} tokens, and no {}prompt of the data is "
          "that "
          "long; give longer data",
          prompt,
          prompts_[prompt].size(),
          options_.ablation == Ablation::mean ? "" : "other ");
  }

  void read_means() {
    std::vector<std::string> names;
    for (size_t i = 0; i < site_.ids.size(); ++i)
      if (site_.ids[i] >= 0)
        names.push_back(site_.name_of(static_cast<int>(i)));
    const auto means = position_means(model_, data_, names, options_.progress);
    auto next = means.begin();
    for (const auto id : site_.ids)
      means_.push_back(id < 0 ? mx::array(0.0f) : *next++);
  }

  // A prompt of the data, as long. What comes behind its end no position sees.
  std::vector<int> another(
      const std::vector<int>& ids, std::mt19937_64& random) const {
    std::vector<size_t> fitting;
    for (size_t i = 0; i < data_.size(); ++i)
      if (data_[i].size() >= ids.size() && data_[i] != ids)
        fitting.push_back(i);
    const auto& other = data_[fitting[random() % fitting.size()]];
    return {other.begin(), other.begin() + static_cast<long>(ids.size())};
  }

  Wavefront::Result plainly(
      size_t prompt, std::mt19937_64& random, const Progress& progress) const {
    const auto& ids = prompts_[prompt];
    const auto& metric = metrics_[prompt];
    const auto run = model_.run(ids, {.save = {"logits"}});
    std::optional<mx::array> reference;
    if (metric.needs_reference()) reference = metric.row_of(run["logits"]);
    PlainSource source;
    if (options_.ablation == Ablation::mean)
      source.values.assign(means_.begin(), means_.end());
    else if (options_.ablation == Ablation::resample)
      source.values = site_values(
          site_,
          model_.run(another(ids, random), {.save = saved_names(site_)}));
    auto cells = grid_.cells;
    for (auto& cell : cells)
      for (auto& place : cell)
        if (place.to < 0) place.to = static_cast<int>(ids.size()) - 1;
    auto result =
        PlainSweep{
            .model = model_,
            .site = site_,
            .metric = metric,
            .ids = ids,
            .cells = cells,
            .source = source,
            .reference = reference,
            .what = "Ablating",
            .progress = progress}
            .sweep();
    result.runs = {metric.of_run(run["logits"], ids, reference)};
    return result;
  }

  Wavefront::Result one(
      size_t prompt, std::mt19937_64& random, const Progress& progress) const {
    const auto& ids = prompts_[prompt];
    Wavefront wave{
        .model = model_,
        .runs = {{ids}},
        .sites = {{.ids = site_.ids, .layout = site_.layout}},
        .cells = {},
        .metric = metrics_[prompt],
        .memory = options_.memory,
        .progress = progress,
    };
    const bool resample = options_.ablation == Ablation::resample;
    if (resample) {
      wave.runs.push_back({another(ids, random)});
    } else if (options_.ablation == Ablation::mean) {
      wave.sites[0].given = means_;
    } else {
      wave.sites[0].zero = true;
    }
    for (const auto& cell : grid_.cells) {
      auto& changes = wave.cells.emplace_back().changes;
      for (const auto& place : cell)
        changes.push_back(
            {.first_layer = place.first_layer,
             .last_layer = place.last_layer,
             .from = place.from,
             .to = place.to < 0 ? static_cast<int>(ids.size()) - 1 : place.to,
             .unit = place.unit,
             .source = resample ? 1 : -1});
    }
    return wave.sweep();
  }

  const InterpretableModel& model_;
  const AblateOptions& options_;
  LayerSite site_;
  Inputs::Rows prompts_, data_;
  Grid grid_;
  std::vector<Readout> metrics_;
  std::vector<mx::array> means_;
};

}  // namespace

Sweep ablate(const InterpretableModel& model, const AblateOptions& options) {
  return Ablater(model, options).sweep();
}

}  // namespace mlxterp
