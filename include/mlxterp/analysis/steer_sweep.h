// mlxterp/analysis/steer_sweep.h: how a model's answers respond to a steering
// vector, by layer and strength.

#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "mlxterp/analysis/metric.h"
#include "mlxterp/analysis/steering.h"

namespace mlxterp {

struct SteerSweepOptions {
  /** Best none that the vector was trained on. */
  Inputs prompts;
  /** What the vector should raise: for the log-odds of one token against
   * another, logit_diff. Must be given. */
  Metric metric = {};
  std::vector<int> layers = {};  ///< Negative: from the end. Empty: all it has.
  /** In units of the residual stream's mean length at the layer. */
  std::vector<float> strengths = {-0.2f, -0.1f, 0, 0.1f, 0.2f};
  /** That are steered, of each prompt and of the neutral text; empty: all. */
  std::vector<int> positions = {};
  /** Other text, to measure what else changes. */
  std::optional<Inputs> neutral = {};
  /** Directions of each layer, drawn at random, of the same length. */
  int random = 4;
  uint64_t seed = 0;       ///< Of these, and of the bootstrap.
  int resamples = 2000;    ///< Of the bootstrap, at least 100.
  bool any_model = false;  ///< See SteeringVector::check_fits.
  /** For comparison, and for models that are no Decoder. */
  bool one_pass_per_cell = false;
  Progress progress = {};
};

/** How one layer responds. Slopes are those of the least-squares line through
 * the metric of all strengths. */
struct SteerResponse {
  int layer = 0;
  float residual_norm = 0;  ///< What one unit of strength is.
  float slope = 0;          ///< Mean over prompts.
  /** Its 95 % interval, by resampling prompts (percentiles). */
  float low = 0, high = 0;
  /** The share of prompts with a slope below 0 (Tan et al., 2024). */
  float contrary = 0;
  /** The largest mean slope of any random direction, in either sense: a
   * direction and its opposite are equally random. NaN: none was drawn. */
  float random = 0;
};

/** A value. */
struct SteeringSweep {
  std::vector<SteerResponse> layers;
  std::vector<float> strengths;
  size_t prompts = 0;
  std::vector<float> unsteered;      ///< The metric of each prompt.
  std::vector<float> metric;         ///< [layer, strength, prompt].
  std::vector<float> slopes;         ///< [layer, prompt].
  std::vector<float> random_slopes;  ///< [layer, direction], mean over prompts.
  /** Of the neutral text, [layer, strength]; empty without one. */
  std::vector<float> perplexity;
  /** From the unsteered model's predictions, mean over positions, in nats. */
  std::vector<float> kl;
  float neutral_perplexity = 0;  ///< Unsteered.
  size_t neutral_tokens = 0;
  size_t rows = 0;  ///< Positions computed, summed over layers: the cost.

  /** [layer, strength]: mean over prompts of the metric minus the unsteered. */
  std::vector<float> change() const;
};

/**
 * Adds the vector at one layer at a time, at each strength, and measures. The
 * runs of one prompt go up the layers together, each from where it begins to
 * differ. Evaluates. Throws usage for a vector that is not meant to be added,
 * fewer than two different strengths, or a metric that is not finite, and as
 * check_fits does.
 */
SteeringSweep steer_sweep(
    const InterpretableModel& model,
    const SteeringVector& vector,
    const SteerSweepOptions& options);

}  // namespace mlxterp
