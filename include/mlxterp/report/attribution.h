// mlxterp/report/attribution.h: attribution patching as JSON and heatmaps.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlxterp/analysis/attribute.h"
#include "mlxterp/report/sweep.h"

namespace mlxterp::report {

/** One site's estimate, and what patch() says of it where it was asked too. */
struct SiteReport {
  std::string site = {};
  Sweep sweep = {};
  std::vector<float> values = {};  ///< Of each cell, flat, as the style asks.
  std::optional<Sweep> exact = {};
  std::vector<float> exact_values = {};
  Agreement agreement = {};
  double exact_seconds = 0;
};

/** A value; of one site at least. */
struct AttributionReport {
  Facts facts = {};  ///< model, direction, metric's texts, steps, ...
  std::vector<NamedToken> tokens = {};
  std::vector<PromptLine> prompts = {};  ///< As in SweepReport.
  std::string metric = {};
  std::vector<SiteReport> sites = {};
  AttributionMethod method = AttributionMethod::atp;
  LinearRule rule = {};
  bool raw = false;
  std::vector<std::string> warnings = {};  ///< As in SweepReport.
  std::optional<double> seconds = {}, forward_seconds = {};
};

/** Throws usage where normalised effects are asked for and the two runs do not
 * differ. */
AttributionReport attribution_report(
    const InterpretableModel& model,
    const AttributeOptions& options,
    std::vector<Attribution> found,
    const SweepStyle& style);

/** The same of the exact sweep of a site, beside its estimate. */
void add_exact(
    AttributionReport& report, size_t site, Sweep exact, double seconds);

/** The answer of `mlxterp attribute` (docs/json.md). */
std::string to_json(const AttributionReport& report);

/** One site's grid. */
Heatmap heatmap(const AttributionReport& report, size_t site);

/** All sites in one grid, of those whose columns are the first one's; the
 * others' names are in `left_out`. */
struct JointHeatmap {
  Heatmap map = {};
  std::vector<std::string> left_out = {};
};
JointHeatmap joint_heatmap(const AttributionReport& report);

}  // namespace mlxterp::report
