// mlxterp/analysis/sweep.h: the result of every sweep over a model's values.

#pragma once

#include <cstddef>
#include <limits>
#include <vector>

namespace mlxterp {

/** What a sweep goes over. Along an axis that is not named, everything is
 * patched at once. */
enum class Axis { layer, position, head, neuron };

/** "layer", "pos", "head", "neuron". */
const char* name(Axis axis);

/** Which run is patched with which one's values. */
enum class Direction {
  denoise,  ///< The corrupted run with clean values: what is sufficient.
  noise,    ///< The clean run with corrupted values: what is necessary.
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
  /** Of each cell whether it cannot act in any pair: what it changes is the
   * same in both runs, or nothing that the metric reads looks at it. Empty
   * where each cell was a forward pass of its own. */
  std::vector<bool> inert;

  size_t cells() const { return metric.size(); }
  std::vector<int> shape() const;
  /** The normalised effect of each cell: 0 leaves the metric of the patched
   * run, 1 reaches that of the other. Throws usage where the two do not differ.
   */
  std::vector<float> effect() const;
  /** The metric of each cell minus that of the run that is patched. */
  std::vector<float> delta() const;
};

}  // namespace mlxterp
