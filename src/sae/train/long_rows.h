// sae/train/long_rows.h: rows that are too long to train on, such as first
// tokens'.

#pragma once

#include <nlohmann/json.hpp>
#include <vector>

#include "sae/train/rows.h"

namespace mlxterp::sae_train {

/** What is too long, by the medians of some rows: of what is read, or across
 * layers of every layer's part of what is read and predicted. */
class LongRows {
 public:
  /** `blocks`: in how many equal parts x and y are looked at; 0: x alone, as a
   * whole. `times` the median is too long; 0: nothing is. */
  LongRows(int blocks, double times) : blocks_(blocks), times_(times) {}

  bool known() const { return known_; }
  void learn(const Rows& rows);
  /** Those that are not too long; ones that are no numbers stay and are refused
   * by name. */
  Rows without(const Rows& rows) const;

  Json to_json() const;
  /** Throws bad_data. */
  void from_json(const nlohmann::json& place);

 private:
  int blocks_;
  double times_;
  bool known_ = false;
  std::vector<double> limits_;  // of each part; 0: none
};

}  // namespace mlxterp::sae_train
