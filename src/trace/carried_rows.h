// trace/carried_rows.h: rows of the residual stream with what travels beside
// it.

#pragma once

#include <vector>

#include "mlxterp/nn/pass.h"

namespace mlxterp {

/** The residual stream between two layers, [batch, pos, d_model], and what
 * travels beside it. */
struct Stream {
  mlx::core::array x;
  Carried carried = {};
};

/** `change` of each. */
template <typename Change>
Carried each(const Carried& all, const Change& change) {
  Carried out;
  for (const auto& [name, value] : all)
    out.emplace(name, change(value));
  return out;
}

/** Positions [from, to) of each: of [batch, pos, ...]. */
Carried positions(const Carried& all, int from, int to);

/** The positions numbered so, int32 [n]. */
Carried positions(const Carried& all, const mlx::core::array& which);

/** One behind the other; all carry the same. `axis`: 0 batch rows, 1 positions.
 */
Carried concatenate(const std::vector<Carried>& parts, int axis);

}  // namespace mlxterp
