// mlxterp/analysis/probe.h: linear probes on activations, tested on what they
// were not trained on.

#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/analysis/collect.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/generate/generate.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

enum class ProbeKind {
  logistic,  ///< Of two classes: the log-odds of the second.
  ridge,     ///< Of a number.
};

/**
 * A linear function of a site's value: `weight` x + `bias`, the log-odds of
 * `classes[1]` against `classes[0]`, or the number. A value.
 */
struct Probe {
  ProbeKind kind = ProbeKind::logistic;
  std::vector<float> weight = {};  ///< [d], in the units of the site.
  float bias = 0;
  /** Standard deviation of the training rows along `weight`. */
  float spread = 0;
  std::vector<std::string> classes = {};  ///< Two, or of ridge none.
  /** The coordinates that are not 0, where it is sparse. */
  std::vector<int> coordinates = {};
  std::string site = {};
  /** What else a file says of it, such as the model: texts by name. */
  std::map<std::string, std::string> facts = {};

  /** [..., d] to float32 [...]. Lazy. Throws usage for another width. */
  mlx::core::array operator()(const mlx::core::array& x) const;

  /** Throws usage where it names no site, or reads another number of values
   * there than the model has; unknown_name. `warn` hears where it was trained
   * on another model. */
  void check_fits(const InterpretableModel& model, const Warn& warn = {}) const;

  /** A steering vector, float32 [d]: along `weight`, as long as one standard
   * deviation of the training rows along it (Li et al., 2023,
   * arXiv:2306.03341). Throws usage where every weight is 0. */
  mlx::core::array direction() const;

  /** A safetensors file of `weight` [d], `bias` [1] and `direction` [d],
   * float32, and metadata. Whole or not at all. */
  void save(const std::filesystem::path& path, bool overwrite = false) const;
  /** Throws bad_data for a file that is none, environment. */
  static Probe load(const std::filesystem::path& path);
};

struct ProbeOptions {
  ProbeKind kind = ProbeKind::logistic;
  /** Of the objective, over standardised coordinates: sum of log losses, or
   * half of squared errors, + l2 / 2 |w|^2 (scikit-learn's C is 1 / l2, its
   * Ridge's alpha is l2). The bias is free. */
  double l2 = 1;
  /** Scale every coordinate by its standard deviation over the training rows.
   */
  bool standardize = true;
  /** Only so many coordinates, those whose class means lie furthest apart (of
   * ridge: with the greatest correlation), chosen on the training rows (Gurnee
   * et al., 2023, arXiv:2305.01610). 0: all. */
  int k = 0;
  int folds = 5;  ///< Of cross-validation, each of whole groups. 0: none.
  bool controls = true;
  uint64_t seed = 0;  ///< Of folds and controls.
  Progress progress = {};
};

/** On the rows that were held out. */
struct ProbeScore {
  /** The share that is classified right; of ridge R^2. */
  double mean = 0;
  std::vector<double> folds = {};
  /** The chance that a row of the second class is scored above one of the
   * first; of ridge 0. Over all held-out rows. */
  double auc = 0;
};

struct ProbeResult {
  Probe probe = {};  ///< Trained on all rows.
  int64_t rows = 0, groups = 0;
  /** The share of the larger class, which a constant reaches; of ridge 0. */
  double baseline = 0;
  std::optional<ProbeScore> held_out = {};
  /** The same with labels in random order: of whole groups where each has one
   * label. */
  std::optional<ProbeScore> shuffled_labels = {};
  /** On random coordinates, `random_k` of them: k, else 16. */
  std::optional<ProbeScore> random_coordinates = {};
  int random_k = 0;
};

/**
 * Trains a probe on rows [n, d] (floating-point), with its cross-validation and
 * controls. `labels` of each row: of logistic the class, 0 or 1, of ridge the
 * number. `groups` of each row: rows of one group (a text, a subject) are never
 * both trained on and held out; empty: each row is its own. Newton's method in
 * float64. Evaluates; 100,000 x 4096 is meant to fit.
 *
 * Throws usage: rows and labels that are not as many, labels of one class, also
 * of a fold, fewer groups than folds; bad_data: values that are NaN or
 * infinite.
 */
ProbeResult train_probe(
    const mlx::core::array& rows,
    const std::vector<double>& labels,
    const std::vector<int>& groups = {},
    const ProbeOptions& options = {});

/** Texts with labels: a JSONL file of {"text", "label", "group"?}. */
struct LabelledTexts {
  std::vector<std::string> texts = {};
  std::vector<double> labels = {};  ///< Of words their place in `classes`.
  std::vector<std::string> classes = {};  ///< Sorted; of ridge none.
  std::vector<int> groups = {};  ///< Where no line has one, each its own.
};

/** Labels are words, whole numbers or true and false, of which there may be
 * two, or numbers for ridge. Throws bad_data with the line. */
LabelledTexts read_labelled_texts(
    const std::filesystem::path& path, ProbeKind kind);

struct ProbeRows {
  /** All positions of a text have its label and its group. */
  CollectOptions::Positions positions = CollectOptions::Positions::last;
  int batch_size = 8;
  std::string model = {};  ///< Its name, for the probe's file.
};

/** A probe at each of the sites, of the texts' activations there; what it was
 * made of stands in its facts. Throws as train_probe does, and usage for sites
 * whose rows are not [row, d]. */
std::vector<ProbeResult> train_probes(
    const InterpretableModel& model,
    const LabelledTexts& data,
    const std::vector<std::string>& sites,
    const ProbeRows& rows = {},
    const ProbeOptions& options = {});

/** What a probe says at each position of one prompt, float32 [pos]. `warn`
 * hears where it was trained on another model. Evaluates. */
mlx::core::array apply_probe(
    const InterpretableModel& model,
    const Probe& probe,
    const std::vector<int>& prompt,
    const Warn& warn = {});

/** What it says at each token that was generated, by prompt: at the position
 * whose input is the token, so of the last token, which does not run, nothing.
 * Its site is among those that `generator` saves (GenerateOptions::save).
 * Throws unknown_name where it is not. Evaluates. */
std::vector<std::vector<float>> probe_values(
    const Generator& generator, const Probe& probe);

}  // namespace mlxterp
