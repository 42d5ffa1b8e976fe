// mlxterp/report/heads.h: scores of attention heads as JSON and a heatmap.

#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mlxterp/analysis/heads.h"
#include "mlxterp/report/heatmap.h"

namespace mlxterp::report {

/** A value. */
struct HeadReport {
  std::string model = {};
  HeadMeasure measure = HeadMeasure::mean;
  Inputs::Rows prompts = {};  ///< The ids that were run.
  /** Of repeated random tokens; absent where a prompt was given. */
  std::optional<RepeatedTokens> repeated = {};
  std::optional<std::string> task = {};  ///< That drew the prompts.
  std::vector<std::string> edits = {};
  /** By the name of what is scored: "induction", ..., "copying". */
  std::vector<std::pair<std::string, HeadGrid>> grids = {};
  int top = 5;  ///< So many heads of each are named.
  std::optional<InductionAblation> ablation = {};
  AblationOptions::Value ablated_to = AblationOptions::Value::zero;
};

/** One of `grids`. Throws unknown_name with those that there are. */
const HeadGrid& grid_of(const HeadReport& report, const std::string& kind);

/** Adds what weights say: "copying" and "matching". */
void add_circuits(HeadReport& report, HeadCircuits circuits);

/** The answer of `mlxterp heads` (docs/json.md). */
std::string to_json(const HeadReport& report);

/** One grid: a row a layer. */
Heatmap heatmap(const HeadReport& report, const std::string& kind);

}  // namespace mlxterp::report
