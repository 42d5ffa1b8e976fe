// apps/mlxterp/sweep.h: how every sweep is shown, saved and told as JSON.

#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/view/heatmap.h"

namespace mlxterp::cli {

/** "layer,pos" as axes. Throws usage. */
std::vector<Axis> parse_axes(const std::vector<std::string>& texts);

/** -o, --html, --force. */
struct SweepOutput {
  std::optional<std::string> file, page;
  bool force = false;

  void add_to(CLI::App& app);
  /** Throws where a file could not be written, before any long work. */
  void check() const;
};

/** A sweep's numbers as one grid: the last axis across, the others down. */
view::Heatmap heatmap(
    const InterpretableModel& model,
    const Sweep& sweep,
    const std::vector<float>& values);

/** axes, shape, effect (values, the last axis fastest), cells, computed. */
void put_sweep(Json& out, const Sweep& sweep, const std::vector<float>& values);

/** A sweep's numbers with its axes. */
mlx::core::array grid(const Sweep& sweep, const std::vector<float>& values);

using Tensors = std::vector<std::pair<std::string, mlx::core::array>>;

/** -o, where it is asked for, with metadata as JSON. */
void save_tensors(
    const SweepOutput& output,
    const Tensors& tensors,
    const std::map<std::string, Json>& metadata);

/** The tensor `effect` alone. */
void save_sweep(
    const SweepOutput& output,
    const Sweep& sweep,
    const std::vector<float>& values,
    const std::map<std::string, Json>& metadata);

/** The page, where one is asked for. */
void write_page(const SweepOutput& output, const view::Heatmap& map);

/** What the verbs tell of a sweep beside its numbers. */
struct SweepReport {
  view::Heatmap map;
  std::string metric;
  std::map<std::string, Json> facts;  ///< Model, site, direction, ...
  double seconds = 0;
};

/** Writes the files asked for, then the JSON or the grid and a summary. */
void report_sweep(
    const ModelArguments& arguments,
    const InterpretableModel& model,
    const SweepOutput& output,
    const Sweep& sweep,
    const std::vector<float>& values,
    SweepReport report);

/** Seconds that `work` takes. */
double seconds_of(const std::function<void()>& work);

/** The lines of a text file, as prompts. Throws environment, usage. */
std::vector<std::string> lines_of(const std::string& path);

/** Median seconds of a plain forward pass on these ids. */
double forward_seconds(
    const InterpretableModel& model, const std::vector<int>& ids);

}  // namespace mlxterp::cli
