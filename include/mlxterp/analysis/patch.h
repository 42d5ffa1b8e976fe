// mlxterp/analysis/patch.h: activation patching, which values of one run make
// another one say what it says.

#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "mlxterp/analysis/metric.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/** What a sweep goes over. Where an axis is not named, all of it is patched at
 * once. */
enum class Axis { layer, position, head, neuron };

/** "layer", "pos", "head", "neuron". */
const char* name(Axis axis);

/** Which run is patched with which one's values. */
enum class Direction {
  denoise,  ///< The corrupted run with clean values: what suffices.
  noise,    ///< The clean run with corrupted values: what is needed.
};

struct PatchOptions {
  /** One prompt or several; each pair is swept, and the results averaged. */
  Inputs clean, corrupt;
  /** A site of every layer: resid_pre, resid_mid, resid_post, attn_out,
   * mlp_out, z, q, k, v, pattern (by destination), mlp.post, or any other with
   * a row for each position. */
  std::string site = "resid_pre";
  std::vector<Axis> by = {Axis::layer, Axis::position};
  Metric metric;
  Direction direction = Direction::denoise;
  /** Only these; negative ones count from the end. Empty: all. */
  std::vector<int> layers = {}, positions = {}, heads = {}, neurons = {};
  /** Pairs of a clean and a corrupted position that stand for each other, where
   * the prompts do not match position by position: the others are never
   * patched. Empty: the prompts have one length. */
  std::vector<std::pair<int, int>> aligned = {};
  /** One forward pass a cell: slow, for comparison. */
  bool plain = false;
  /** Bytes that what is computed at once may take; 0: as many as pay off. */
  size_t memory = 0;
  Progress progress = {};
};

/** The result of a sweep; cells lie flat, the last axis fastest. A value. */
struct Sweep {
  struct Range {
    Axis axis;
    std::vector<int> values;  ///< Layers, positions, heads or neurons.
  };
  std::vector<Range> axes;
  std::vector<float> metric;  ///< Of each patched run, averaged over pairs.
  std::vector<float> spread;  ///< Its standard deviation over pairs.
  /** Of the clean and of the corrupted runs, averaged. */
  float clean = 0, corrupt = 0;
  Direction direction = Direction::denoise;
  size_t pairs = 0;
  size_t computed = 0;  ///< Cells that had to be computed, of all pairs.
  /** Positions that a layer computed, summed over layers: what it cost. A plain
   * pass computes tokens times layers. */
  size_t rows = 0;
  std::vector<int> ids;  ///< The patched prompt, of the first pair.

  size_t cells() const { return metric.size(); }
  std::vector<int> shape() const;
  /** How much of the way from the patched run to the other one each cell goes:
   * 0 nothing, 1 all of it. Throws usage where the two do not differ. */
  std::vector<float> effect() const;
};

/**
 * Activation patching (Vig et al., 2020; Meng et al., 2022), exact: each cell
 * is what a whole forward pass with that one change would say. All cells travel
 * up the layers together (ARCHITECTURE.md, "The wavefront"), so a sweep costs
 * about as much as a few forward passes. Patterns are patched in the heads of
 * the layer alone: z = pattern v. Evaluates.
 *
 * Throws usage, unknown_name, out_of_range, before any long work.
 */
Sweep patch(const InterpretableModel& model, const PatchOptions& options);

}  // namespace mlxterp
