// analysis/pairs.h: the pairs of prompts that a sweep goes over.

#pragma once

#include <vector>

#include "analysis/grid.h"
#include "analysis/readout.h"
#include "analysis/sites.h"
#include "mlxterp/analysis/patch.h"

namespace mlxterp {

/** One pair of prompts, as the run that is patched and the one it takes from.
 */
struct Pair {
  std::vector<int> run, source;
  /** By position of `run`, that of `source`, -1: none. Empty: the same. */
  std::vector<int> position_map;

  int source_of(int position) const {
    return position_map.empty() ? position
                                : position_map[static_cast<size_t>(position)];
  }
  /** How many positions stand before the first where the two runs may differ:
   * same tokens, each aligned with itself. */
  int shared() const;
};

/** Of [1, pos, ...], the source's value at each position of the run; that of
 * `run` where none stands for it. */
mlx::core::array aligned(
    const mlx::core::array& source,
    const Pair& pair,
    const mlx::core::array& run);

/** `who` stands in errors: "patch". Throws usage, out_of_range. */
std::vector<Pair> make_pairs(
    const char* who,
    const InterpretableModel& model,
    const PatchOptions& options);

/** Throws usage where the site lacks an axis, out_of_range. */
Grid make_grid(
    const char* who,
    const InterpretableModel& model,
    const PatchOptions& options,
    const LayerSite& site,
    const std::vector<Pair>& pairs);

/** The metric of each pair, found to fit both prompts. Throws usage,
 * unknown_name, out_of_range. */
std::vector<Readout> readouts(
    const char* who,
    const InterpretableModel& model,
    const Metric& metric,
    const std::vector<Pair>& pairs);

/** To the end of a prompt, and without positions that stand for none. */
std::vector<Place> of_pair(const std::vector<Place>& cell, const Pair& pair);

}  // namespace mlxterp
