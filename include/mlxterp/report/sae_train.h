// mlxterp/report/sae_train.h: what was trained, as JSON.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/sae/train_run.h"

namespace mlxterp::report {

/** A value. */
struct SaeTrainReport {
  std::string model = {};  ///< Empty where a store was read alone.
  std::vector<std::string> edits = {};
  std::string text = {}, store = {};  ///< One of them.
  std::string folder = {};
  SaeRunSummary summary = {};
};

/** The answer of `mlxterp sae train` (docs/json.md). */
std::string to_json(const SaeTrainReport& report);

}  // namespace mlxterp::report
