// analysis/wavefront/plan.h: which cells of a wavefront travel, and from where.

#pragma once

#include <vector>

#include "analysis/wavefront/wavefront.h"

namespace mlxterp {

/** A cell with what is left of it after all that changes nothing. */
struct Plan {
  size_t cell = 0;
  int run = 0;
  int first = 0;  ///< The position where it begins to differ.
  int join = 0;   ///< The layer; n_layers: behind the last.
  std::vector<Wavefront::Change> changes = {};
};

/** The cells that are not their run itself, in the order they join. */
std::vector<Plan> make_plans(const Wavefront& wave);

}  // namespace mlxterp
