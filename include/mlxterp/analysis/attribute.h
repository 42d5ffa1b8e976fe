// mlxterp/analysis/attribute.h: attribution patching, a whole sweep estimated
// from one gradient.

#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "mlxterp/analysis/patch.h"

namespace mlxterp {

/** As PatchOptions, but of several sites. */
struct AttributeOptions {
  Inputs clean, corrupt;
  /** As PatchOptions::site, each with all the axes asked for. One gradient
   * serves all of them. */
  std::vector<std::string> sites = {"resid_pre"};
  std::vector<Axis> by = {Axis::layer, Axis::position};
  /** Any but rank, which has no gradient. */
  Metric metric = {};  ///< Must be given.
  Direction direction = Direction::denoise;
  /** 1: the gradient of the patched run. n: the mean of n gradients, at k / n
   * (k = 0 .. n - 1) of the straight line from the patched run's embeddings to
   * the other one's. */
  int steps = 1;
  /** Only these; negative ones count from the end. Empty: all. */
  std::vector<int> layers = {}, positions = {}, heads = {}, neurons = {};
  /** As PatchOptions::position_map; patterns need prompts of one length. */
  std::vector<std::pair<int, int>> position_map = {};
  Progress progress = {};
};

/** The sweep of one site: `metric` is what the metric of each patched run would
 * be, were it linear: that of the run and the cell's attribution. */
struct Attribution {
  std::string site;
  Sweep sweep;

  /** What each cell adds to the run's metric, flat. */
  std::vector<float> attributions() const;
};

/**
 * Attribution patching (Nanda, 2023; Syed, Rager and Conmy, 2023): of each cell
 *
 *     sum over its values of (source - run) * d metric / d value
 *
 * with the gradient taken in the run that is patched, the first order of what
 * patch() computes exactly. With `steps` the gradient is a mean along the line
 * between the two runs' embeddings (EAP-IG: Hanna, Pezzelle and Belinkov, 2024;
 * integrated gradients: Sundararajan, Taly and Yan, 2017), which holds where
 * the gradient at the run has vanished or saturated.
 *
 * One pass forward for both runs and one backward, whatever the number of
 * sites; with steps, of n + 1 rows. Products and sums in float32. Evaluates.
 *
 * Throws usage, unknown_name, out_of_range, before any long work; usage where
 * an attribution is not finite.
 */
std::vector<Attribution> attribute(
    const InterpretableModel& model, const AttributeOptions& options);

/** How well one sweep approximates another over the same cells. */
struct Agreement {
  /** Correlations over all cells, of values and of ranks (equal values share
   * theirs); NaN where a sweep is constant. */
  double pearson = 0, spearman = 0;
  struct Cell {
    size_t cell = 0;  ///< Flat.
    float exact = 0, approximate = 0;
  };
  std::vector<Cell> worst;  ///< Largest difference first.
};

/** Of the patched runs' metric. Throws usage where the sweeps do not go over
 * the same cells. */
Agreement compare(
    const Sweep& exact, const Sweep& approximate, size_t worst = 5);

}  // namespace mlxterp
