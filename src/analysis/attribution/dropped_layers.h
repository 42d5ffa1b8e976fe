// analysis/attribution/dropped_layers.h: gradients without what one layer adds
// to the stream, of each layer in turn.

#pragma once

#include <functional>
#include <vector>

#include "analysis/linear/held.h"
#include "trace/carried_rows.h"

namespace mlxterp {

/** A value; what it refers to outlives it. */
struct DroppedLayers {
  const InterpretableModel& model;  ///< Of a Decoder.
  const HeldSites& held;
  const std::vector<SiteId>& watched;          ///< None below layer `from`.
  const std::vector<mlx::core::array>& zeros;  ///< By watched, [1, ...].
  int from;  ///< The first layer that is dropped; the last is the last.

  /** Of what leaves the last layer, [point, pos, d_model], the gradient. */
  using Top = std::function<mlx::core::array(const mlx::core::array& last)>;
  /** A gradient by one of `watched`, [row, ...], summed over the points. Row r
   * lacks what goes through what layer from + r adds. Lazy. */
  using Found =
      std::function<void(size_t watched, const mlx::core::array& gradient)>;

  /** Down from the last layer. A row joins where its layer is dropped: above
   * that it is the whole gradient's. `points` enter layer 0, of prompts of
   * `length`; `on_layer` is told each layer that is done. Evaluates. */
  void walk(
      const Stream& points,
      int length,
      const Top& top,
      const Found& found,
      const std::function<void(int layer)>& on_layer) const;
};

}  // namespace mlxterp
