// mlxterp/analysis/attribute.h: attribution patching, a whole sweep estimated
// from one gradient.

#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "mlxterp/analysis/linear_rule.h"
#include "mlxterp/analysis/patch.h"

namespace mlxterp {

/** How a node (a cell of a site) is scored. */
enum class AttributionMethod {
  atp,  ///< Its difference times the gradient (Nanda, 2023).
  /** Of queries and keys (q, k, rot_q, rot_k) the pattern is made again with
   * the other run's and its change taken times the gradient at the pattern, a
   * head's queries or one position's key at a time: a saturated softmax has no
   * slope. Other sites as atp (Kramar, Lieberum, Shah and Nanda, 2024, 3.1). */
  qk_fix,
  /** The mean of absolute scores by gradients that leave out what one layer
   * adds to the stream, each layer in turn but the node's own: effects of
   * opposite signs that cancel still show. A size, without a sign (ibid., 3.2).
   */
  grad_drop,
  atp_star,  ///< AtP*: both.
};

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
  AttributionMethod method = AttributionMethod::atp;
  /** What the gradient goes through; with several steps each holds its own
   * point's values. */
  LinearRule rule = {};
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

  /** What each cell adds to the run's metric, flat. Of grad_drop and atp_star
   * its size, with the sign of the way from the run's metric to the source's.
   */
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
 * With a QK fix a cell of several positions or heads is the sum over each
 * alone; a key that later layers read too counts in all of them. GradDrop takes
 * for each layer from the lowest one asked for on a way back more, from that
 * layer down; a cell is added up before its absolute value is taken, of each
 * pair by itself. A residual stream is no layer's own: the mean is over all of
 * them.
 *
 * A rule takes another linearisation than the gradient. `relevance` is RelP
 * (Jafari, Eberle, Khakzar and Nanda, 2025) with its LN, identity and half
 * rules, without the AH rule that holds patterns as well; `frozen` holds what
 * attribution graphs hold. What is held is held below a site, not at it: the
 * attribution of a held site (pattern by `frozen`) is its difference times the
 * gradient through all that follows. A QK fix makes the node's own pattern
 * again, whatever is held, and takes later ones as the rule has them. By
 * `relevance`, gradient times value of resid_pre add up to the metric where
 * everything behind is homogeneous: no biases, no cap, a metric linear in the
 * logits, and patterns held too or of one source.
 *
 * Throws usage, unknown_name, out_of_range, before any long work; usage where
 * an attribution is not finite, where a rule says nothing of a layer (relevance
 * of experts and of what edits make of an activation, relevance and frozen of a
 * gate behind attention and of mixers that are none), and where by it nothing
 * of a site reaches the metric: q and k by frozen, without a QK fix. Of a QK
 * fix also where prompts do not match position by position, where queries or
 * keys are normalised across heads (rot_q and rot_k still are a head's own),
 * where an edit stands between the scores and the pattern; of all but atp, and
 * of all rules but full, where the model runs elsewhere.
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

/** Of the patched runs' metric, or of `sizes`: of how much it differs from that
 * of the run that is patched, whichever way, which is what grad_drop and
 * atp_star estimate. Throws usage where the sweeps do not go over the same
 * cells. */
Agreement compare(
    const Sweep& exact,
    const Sweep& approximate,
    size_t worst = 5,
    bool sizes = false);

/** Whether a method gives sizes without a sign. */
bool gives_sizes(AttributionMethod method);

}  // namespace mlxterp
