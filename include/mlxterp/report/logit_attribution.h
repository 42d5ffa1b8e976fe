// mlxterp/report/logit_attribution.h: direct logit attribution as JSON, as a
// heatmap and as a file's tensors.

#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/analysis/logit_attribution.h"
#include "mlxterp/report/heatmap.h"
#include "mlxterp/report/names.h"

namespace mlxterp::report {

/** A value. */
struct LogitAttributionReport {
  std::string model = {};
  std::vector<NamedToken> tokens = {};    ///< Of the first prompt.
  std::vector<std::string> metrics = {};  ///< As written.
  Unit unit = Unit::component;
  std::vector<std::string> edits = {};
  std::optional<std::string> task = {};  ///< That drew the prompts.
  LogitAttribution result = {};
  std::vector<std::string> warnings = {};  ///< Of the metric.
};

LogitAttributionReport logit_attribution_report(
    const InterpretableModel& model,
    std::string model_name,
    std::vector<std::string> metrics,
    Unit unit,
    LogitAttribution result);

/** The answer of `mlxterp dla` (docs/json.md). */
std::string to_json(const LogitAttributionReport& report);

/** By layer: heads, of layers that have some, or what attention and MLP add. Of
 * neurons: the latter. */
Heatmap heatmap(const LogitAttributionReport& report);

/** One for each kind of part, [part], or [layer, head or neuron], of the layers
 * that have some, NaN behind the last one of a layer with fewer; and
 * "accumulated", [layer + 1]. */
std::vector<std::pair<std::string, mlx::core::array>> tensors(
    const LogitAttribution& result);

}  // namespace mlxterp::report
