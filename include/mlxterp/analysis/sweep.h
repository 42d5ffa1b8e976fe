// mlxterp/analysis/sweep.h: what every sweep over a model's inside gives back.

#pragma once

#include <cstddef>
#include <limits>
#include <vector>

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
  /** How far each cell is from the run that was changed. */
  std::vector<float> change() const;
};

}  // namespace mlxterp
