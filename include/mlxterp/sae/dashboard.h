// mlxterp/sae/dashboard.h: what there is to know of an SAE's features, gathered
// in one pass over a text.

#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "mlxterp/sae/features.h"

namespace mlxterp {

/** Beyond so many features no correlations are taken: their sums are
 * features x features numbers. */
inline constexpr size_t most_correlated_features = 4096;

struct DashboardOptions {
  std::vector<int> features = {};  ///< One at least, each once.
  int top = 20;                    ///< Examples with the largest activation.
  int intervals = 10;              ///< At most; see FeatureDashboard.
  int per_interval = 5;            ///< Examples of each, drawn at random.
  int before = 25, after = 10;     ///< Tokens of an example around its own.
  int bins = 50;                   ///< Of histograms, at most.
  int tokens_shown = 10;           ///< Promoted, suppressed; 0: no logits.
  int neighbours = 5;              ///< Of each kind; 0: none.
  int length = 128;                ///< Tokens of a window.
  int batch_size = 8;              ///< Windows in one pass.
  int64_t tokens = 0;              ///< Ends behind so many; 0: with the text.
  uint64_t seed = 0;               ///< Of the examples that are drawn.
  std::string site = {}, reads = {};  ///< As SaeAttachOptions.
  Progress progress = {};
  Warn warn = {};
};

/** A feature at a position, with what stands around it. */
struct FeatureExample {
  float value = 0;
  std::vector<int> ids = {};
  /** Of each of `ids` the feature's activation; 0 at a window's first. */
  std::vector<float> acts = {};
  int at = 0;  ///< Of `ids`, the token with `value`.
  int64_t document = 0, window = 0;
  int64_t position = 0;  ///< In its window.
};

/** Counts of equal stretches side by side: the i-th holds
 * (from + i width, from + (i + 1) width]. */
struct FeatureHistogram {
  double from = 0, width = 0;
  std::vector<int64_t> counts = {};
};

struct FeatureDashboard {
  /** Of magnitudes in (from, to], over all positions read. */
  struct Interval {
    double from = 0, to = 0;
    int64_t positions = 0;
    std::vector<FeatureExample> examples = {};  ///< The largest first.
  };
  struct Similar {
    int feature = 0;   ///< Of all of the SAE's.
    float cosine = 0;  ///< Of the two decoder rows.
  };
  struct Correlated {
    int feature = 0;  ///< Of those that were asked for.
    /** Over all positions read, zeros too: of the deviations from the means,
     * and of the activations as they are. */
    double pearson = 0, cosine = 0;
    int64_t both = 0;  ///< Positions where both are active.
  };

  int feature = 0;
  int64_t active = 0;  ///< Positions where it is not 0.
  float largest = 0;   ///< The activation of the largest magnitude.
  double mean = 0;     ///< Of activations that are not 0.
  /** Of activations that are not 0. The width is the smallest power of two
   * with which `bins` of them hold the largest magnitude, so that more than
   * half of these are in use and nothing is read twice. Bins of negative
   * activations hold [from, to). */
  FeatureHistogram activations = {};
  /** The best position of each of the best windows, the largest first. */
  std::vector<FeatureExample> top = {};
  /** From the largest magnitudes down; as wide as bins are, for at most
   * `intervals` of them. */
  std::vector<Interval> intervals = {};

  /** As feature_logits. Empty, and so are `logits`, where it has none. */
  std::vector<FeatureToken> promoted = {}, suppressed = {};
  FeatureHistogram logits = {};  ///< Of the whole vocabulary, `bins` of them.

  std::vector<Similar> similar = {};        ///< The largest cosine first.
  std::vector<Correlated> correlated = {};  ///< The largest pearson first.
};

struct FeatureDashboards {
  SaeSites sites = {};
  int d_sae = 0, length = 0;
  int64_t tokens = 0;  ///< Read, but for the first of each window.
  int64_t windows = 0;
  uint64_t seed = 0;
  std::vector<FeatureDashboard> features = {};  ///< As they were asked for.
};

/**
 * Reads a text, a JSONL file or a folder of these (as store_text_activations
 * does) once. The first position of a window, which in most models is like no
 * other, does not count. Which examples of an interval are kept depends on the
 * seed and their place in the text alone. Memory is a few batches and the
 * examples, whatever the text's length: about 25 KB a feature as the options
 * are. Evaluates.
 *
 * Throws usage for options that cannot be, and where no window has two tokens;
 * out_of_range for a feature that there is not; bad_data for a text that cannot
 * be read and an activation that is not finite; as attach_sae does;
 * environment.
 */
FeatureDashboards feature_dashboards_of_text(
    const InterpretableModel& model,
    const Sae& sae,
    const std::filesystem::path& text,
    const DashboardOptions& options);

/** The same of prompts in memory, a window each; `length` is not read. */
FeatureDashboards feature_dashboards(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompts,
    const DashboardOptions& options);

/** `n` features of an SAE, drawn at random without repetition and sorted; all
 * where it has no more. */
std::vector<int> random_features(const Sae& sae, int n, uint64_t seed);

}  // namespace mlxterp
