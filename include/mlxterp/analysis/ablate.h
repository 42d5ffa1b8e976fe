// mlxterp/analysis/ablate.h: what a model says without some of its values.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mlxterp/analysis/metric.h"
#include "mlxterp/analysis/sweep.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** What stands in the place of what is taken out. */
enum class Ablation {
  zero,      ///< Nothing.
  mean,      ///< The mean over the data, position by position.
  resample,  ///< What it is in another prompt of the data.
};

struct AblateOptions {
  /** One prompt or several, swept one after the other and averaged. */
  Inputs prompts;
  /** Of every layer; as in PatchOptions, but pattern and resid_post. */
  std::string site = "z";
  std::vector<Axis> by = {Axis::layer, Axis::head};
  Metric metric = {};  ///< Must be given.
  Ablation ablation = Ablation::mean;
  /** For mean and resample; the prompts themselves where absent. Each prompt
   * needs data as long as it is. */
  std::optional<Inputs> data = {};
  int samples = 1;  ///< Resample only: how many prompts of the data, averaged.
  uint64_t seed = 0;
  /** Only these; negative ones count from the end. Empty: all. */
  std::vector<int> layers = {}, positions = {}, heads = {}, neurons = {};
  /** One forward pass a cell, as in PatchOptions. */
  bool one_pass_per_cell = false;
  size_t memory = 0;  ///< As in PatchOptions.
  Progress progress = {};
};

/**
 * Ablation, exact, by the walk that patch() takes: zero, mean (over a data set,
 * per position; Wang et al., 2022) or resample (Chan et al., 2022, "causal
 * scrubbing"). Of the result `clean` is the metric of the whole runs and
 * change() what each cell does to it; `corrupt` is NaN. Evaluates. Throws
 * usage, unknown_name, out_of_range.
 */
Sweep ablate(const InterpretableModel& model, const AblateOptions& options);

}  // namespace mlxterp
