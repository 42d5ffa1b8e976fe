// mlxterp/report/activation_store.h: what was collected, as JSON.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/analysis/activation_store.h"

namespace mlxterp::report {

/** A value. */
struct StoreReport {
  std::string model = {};
  std::vector<std::string> edits = {};
  std::string text = {}, folder = {};
  StoreSummary summary = {};
};

/** The answer of `mlxterp collect` (docs/json.md). */
std::string to_json(const StoreReport& report);

}  // namespace mlxterp::report
