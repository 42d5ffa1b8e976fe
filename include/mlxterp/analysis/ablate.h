// mlxterp/analysis/ablate.h: the effect of removing some of a model's values.

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

/** What replaces the values that are ablated. */
enum class Ablation {
  zero,      ///< Zeros.
  mean,      ///< The mean over the data, position by position.
  resample,  ///< The value in another prompt of the data.
};

struct AblateOptions {
  /** One prompt or several, swept one after the other and averaged. */
  Inputs prompts;
  /** Of every layer; as in PatchOptions, except pattern and resid_post. */
  std::string site = "z";
  std::vector<Axis> by = {Axis::layer, Axis::head};
  Metric metric = {};  ///< Must be given.
  Ablation ablation = Ablation::mean;
  /** For mean and resample; the prompts themselves where absent. Each prompt
   * needs data as long as it is. */
  std::optional<Inputs> data = {};
  int samples = 1;  ///< Resample only: prompts of the data to average over.
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
 * scrubbing"). In the result `clean` is the metric of the intact runs,
 * delta() the change that each cell makes, and `corrupt` NaN. Evaluates.
 * Throws usage, unknown_name, out_of_range.
 */
Sweep ablate(const InterpretableModel& model, const AblateOptions& options);

}  // namespace mlxterp
