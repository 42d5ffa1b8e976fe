// view/scale.h: how a heatmap's numbers are written and coloured.

#pragma once

#include <string>

#include "mlxterp/report/heatmap.h"

namespace mlxterp::view {

/** Digits and colours of one heatmap. A value. */
class Scale {
 public:
  static constexpr int steps = 12;  ///< Of colour to either side of neutral.

  explicit Scale(const report::Heatmap& map);

  /** The largest distance from neutral; 1 where there is none. */
  float most() const { return most_; }
  bool any_below() const { return below_; }
  bool any_above() const { return above_; }

  /** With as many digits as the largest value leaves worth reading: percent
   * whole from 10 on, one decimal below. Without a unit. */
  std::string number(float value) const;
  /** The same, nothing where it is too little to be read: what prints as
   * nothing, or is under 2 % of the whole. */
  std::string cell(float value) const;
  /** From -steps to steps; 0 for what is not written. */
  int step(float value) const;

 private:
  bool percent_ = false, below_ = false, above_ = false;
  float most_ = 0, largest_ = 0, neutral_ = 0;
};

}  // namespace mlxterp::view
