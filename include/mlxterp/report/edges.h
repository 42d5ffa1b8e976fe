// mlxterp/report/edges.h: the scores of edges as JSON, as a table and as a
// file's tensors.

#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/analysis/edges.h"
#include "mlxterp/report/sweep.h"

namespace mlxterp::report {

/** A value. */
struct EdgesReport {
  Facts facts = {};                     ///< model, task, method, direction, ...
  std::vector<NamedToken> tokens = {};  ///< As in SweepReport.
  std::string metric = {};              ///< Empty: nothing is measured.
  EdgeScores found = {};
  std::vector<std::string> warnings = {};  ///< As in SweepReport.
  std::optional<double> seconds = {}, forward_seconds = {};
};

EdgesReport edges_report(
    const InterpretableModel& model,
    const EdgeOptions& options,
    EdgeScores found,
    const SweepStyle& style);

/** The answer of `mlxterp edges` (docs/json.md). */
std::string to_json(const EdgesReport& report);

/** "clean +6.1196, corrupted -5.4853", as of a sweep; of ifr what it is. */
std::string runs_text(const EdgesReport& report);

/** scores, spread and, of a sample, exact, [source, destination] or [pos,
 * source, destination], NaN where there is no edge. */
std::vector<std::pair<std::string, mlx::core::array>> tensors(
    const EdgesReport& report);

/** The facts and, in the tensors' order, `sources` and `destinations`. */
Facts file_facts(const EdgesReport& report);

}  // namespace mlxterp::report
