// analysis/grid.h: the cells of a sweep, made of the axes asked for.

#pragma once

#include <vector>

#include "analysis/sites.h"
#include "mlxterp/analysis/sweep.h"

namespace mlxterp {

/** Some layers and positions (both ends count), one unit (head or neuron) or
 * all (-1), of a site. */
struct Place {
  int first_layer, last_layer, from, to, unit;
};

struct GridChoice {
  std::vector<Axis> by;
  std::vector<int> layers, positions, heads, neurons;  ///< Empty: all.
};

struct Grid {
  std::vector<Sweep::Range> axes;
  /** What each cell changes, the last axis fastest. `to` is -1 for the end of
   * a prompt, whatever its length. */
  std::vector<std::vector<Place>> cells;
};

/** `lengths`: of the prompts that are swept. Throws usage, out_of_range;
 * messages begin with `who` in brackets. */
Grid make_grid(
    const InterpretableModel& model,
    const LayerSite& site,
    const GridChoice& choice,
    const std::vector<size_t>& lengths,
    const char* who);

}  // namespace mlxterp
