// mlxterp/analysis/causal_trace.h: causal tracing, which localises where
// a model recalls a fact.

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

struct CausalTraceOptions {
  Inputs prompt;        ///< One.
  std::string subject;  ///< As written in the prompt.
  /** Absent: the probability of the token that the clean run predicts. */
  std::optional<Metric> metric = {};
  /** What is restored: resid_post (states), attn_out or mlp_out, or another
   * site of every layer. */
  std::string site = "resid_post";
  /** How many layers around each are restored together; a single one in the
   * paper for states, 10 for attn_out and mlp_out. */
  int window = 1;
  /** The noise on the subject's embeddings, in standard deviations of the
   * embedding's entries. */
  float noise = 3.0f;
  int samples = 10;  ///< Of noise, averaged.
  uint64_t seed = 0;
  std::vector<int> layers = {}, positions = {};  ///< Only these. Empty: all.
  size_t memory = 0;                             ///< As in PatchOptions.
  Progress progress = {};
};

struct CausalTrace {
  Sweep sweep;  ///< [position, layer]; corrupt is the mean over the noise.
  Metric metric;
  std::vector<int> subject;  ///< Its positions.
};

/**
 * Causal tracing (Meng et al., 2022, "Locating and editing factual
 * associations in GPT"): the subject's embeddings are corrupted with Gaussian
 * noise, then the clean value of a window of layers at one position is
 * restored. The noise is on what enters layer 0: embeddings that layers have of
 * their own (Gemma 4) stay as they are. All samples, layers and positions share
 * one walk. sweep.effect() is the paper's indirect effect over its total
 * effect. Evaluates. Throws usage (a subject that is not in the prompt),
 * unknown_name, out_of_range.
 */
CausalTrace causal_trace(
    const InterpretableModel& model, const CausalTraceOptions& options);

}  // namespace mlxterp
