// apps/mlxterp/sweep.h: how every sweep is shown, saved and told as JSON.

#pragma once

#include <map>
#include <optional>
#include <string>
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

/** The tensor `effect` with its axes, and metadata as JSON. */
void save_sweep(
    const SweepOutput& output,
    const Sweep& sweep,
    const std::vector<float>& values,
    std::map<std::string, Json> metadata);

/** The page, where one is asked for. */
void write_page(const SweepOutput& output, const view::Heatmap& map);

/** Median seconds of a plain forward pass on these ids. */
double forward_seconds(
    const InterpretableModel& model, const std::vector<int>& ids);

}  // namespace mlxterp::cli
