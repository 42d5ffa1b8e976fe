// analysis/linear/linear_layer.h: one layer of a pass as the linear map that it
// is near some points, down which rows of cotangents go.

#pragma once

#include <string>
#include <vector>

#include "analysis/linear/held.h"
#include "trace/carried_rows.h"

namespace mlxterp {

/** A value; what it is made of outlives it. One thread. */
class LinearLayer {
 public:
  /** What enters layer `number` at some points, prompts of `length` each
   * (padded behind that), with what travels beside it: [point, pos, ...].
   * `constant`: of that what no layer made, by name. */
  LinearLayer(
      const InterpretableModel& model,
      const HeldSites& held,
      int number,
      int length,
      const Stream& entering,
      const Carried& constant);

  /** Has gradients taken by `zero` [1, ...] too, added to a site in it. */
  void watch(SiteId site, const mlx::core::array& zero);

  struct Below {
    /** Of what enters it: of `carried` all that earlier layers made. */
    Stream rows;
    /** By what is watched, in that order, [row, ...], summed over the points.
     */
    std::vector<mlx::core::array> gradients;
  };
  /**
   * From rows of cotangents of what leaves it, [row, point, pos, ...], of its
   * positions `from` and later, to those of what enters there. MLX's
   * derivative, some rows at a time; on a CPU the layer runs forward once for
   * all of them, but for experts. `dropped`: without what goes through what it
   * adds to the stream. Evaluated where they are many.
   */
  Below back(const Stream& above, int from = 0, bool dropped = false) const;

 private:
  int points() const { return entering_.x.shape(0); }
  // Rows at once.
  std::vector<mlx::core::array> through(
      std::vector<mlx::core::array> cotangents,
      const std::vector<std::string>& leaving,
      int from,
      bool dropped) const;

  const InterpretableModel& model_;
  const HeldSites& held_;
  int number_, length_;
  const Stream& entering_;
  std::vector<std::string> made_;  // by earlier layers, beside the stream
  std::vector<SiteId> watched_;
  std::vector<mlx::core::array> zeros_;
};

}  // namespace mlxterp
