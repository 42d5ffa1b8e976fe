// mlxterp/report/sweep.h: a sweep and what to show beside it: as JSON, as a
// heatmap and as a file's tensors.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/analysis/ablate.h"
#include "mlxterp/analysis/causal_trace.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/analysis/path_patch.h"
#include "mlxterp/report/facts.h"
#include "mlxterp/report/heatmap.h"
#include "mlxterp/report/names.h"

namespace mlxterp::report {

/** What the options of a sweep do not say. */
struct SweepStyle {
  std::string model = {};  ///< What the model was asked for as.
  /** The metric itself; else the normalised effect, of ablate the change. */
  bool raw = false;
  std::optional<std::string> task = {};    ///< That drew the pairs.
  std::vector<std::string> edits = {};     ///< Of the model, as written.
  std::string_view raw_option = "raw";     ///< What `raw` is called, in errors.
  std::vector<std::string> warnings = {};  ///< Given when the metric was read.
};

/** A value. */
struct SweepReport {
  std::string kind = {};   ///< "Activation patching"
  std::string about = {};  ///< A sentence or two on how to read the values.
  Facts facts = {};        ///< What was asked for: model, site, direction, ...
  std::vector<NamedToken> tokens =
      {};  ///< The changed prompt, the first of several.
  std::vector<PromptLine> prompts = {};  ///< Those run, of the first pair.
  std::string metric = {};
  Sweep sweep = {};
  std::vector<float> values = {};  ///< Of each cell, flat, as the style asks.
  bool percent = false;            ///< 1 is 100 %.
  std::vector<std::string> warnings = {};  ///< The style's and run_warnings().
  /** How long it took, and a plain pass beside it; absent: not measured. */
  std::optional<double> seconds = {}, forward_seconds = {};
};

// Each throws usage where normalised effects are asked for and the clean and
// the corrupted run do not differ.

SweepReport sweep_report(
    const InterpretableModel& model,
    const PatchOptions& options,
    Sweep sweep,
    const SweepStyle& style);
SweepReport sweep_report(
    const InterpretableModel& model,
    const AblateOptions& options,
    Sweep sweep,
    const SweepStyle& style);
SweepReport sweep_report(
    const InterpretableModel& model,
    const CausalTraceOptions& options,
    CausalTrace trace,
    const SweepStyle& style);
SweepReport sweep_report(
    const InterpretableModel& model,
    const PathPatchOptions& options,
    Sweep sweep,
    const SweepStyle& style);

/** "logit_diff( Mary, John): clean +6.1196, corrupted -5.4853 (means of 8
 * runs)"; of ablation, which has one run, "not ablated +6.1196". */
std::string runs_text(const std::string& metric, const Sweep& sweep);

/**
 * Whether the runs are those that a sweep between them explains: a sentence
 * where the clean run has a logit difference of 0 or less (also of the metric
 * that comes with a task), and one where it is no better than the corrupted
 * one. Of metrics that have no better, as a function of one's own, nothing.
 * `name`: what the metric is called.
 */
std::vector<std::string> run_warnings(
    const Metric& metric,
    const std::string& name,
    const Sweep& sweep,
    bool task = false);

/** The cells as docs/json.md has them: the answer of patch, ablate,
 * causal-trace and path-patch. */
std::string to_json(const SweepReport& report);

/** One grid: the last axis across, the others down; of two axes layers down,
 * the last on top. */
Heatmap heatmap(const SweepReport& report);

/** The first prompt of each run of pairs, with the tokens marked that differ;
 * of prompts of different lengths, all between what both begin and end with. */
std::vector<PromptLine> pair_lines(
    const InterpretableModel& model,
    const Inputs& clean,
    const Inputs& corrupt);

/** Of each cell the normalised effect, or raw. Throws usage where the two runs
 * do not differ. */
std::vector<float> patching_values(const Sweep& sweep, const SweepStyle& style);

/** The values with the sweep's axes. */
mlx::core::array grid(const Sweep& sweep, const std::vector<float>& values);

/** What the values of a patching sweep mean: "logit_diff( Mary, John) of z,
 * patched from the clean run into the corrupted one. ..." */
std::string about_patching(
    const std::string& metric,
    const std::string& sites,
    const Sweep& sweep,
    bool raw);

/** "layer 3, pos 5"; "L23H3, pos 5" */
std::string place(const Sweep& sweep, size_t cell);

}  // namespace mlxterp::report
