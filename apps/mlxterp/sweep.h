// apps/mlxterp/sweep.h: what every sweep takes, and how it is run and shown.

#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "arguments.h"
#include "mlxterp/report/sweep.h"
#include "output.h"

namespace mlxterp::cli {

/** MODEL, --edit, --memory, --raw, --compare-cost, -o, --html and --force. */
struct SweepArguments {
  ModelArguments model;
  double memory = 0;
  bool raw = false, compare_cost = false;
  Output output;

  void add_model(CLI::App& app) { model.add_run_to(app); }
  /** `raw_help`: what the values are instead. */
  void add_rest(CLI::App& app, const std::string& raw_help);
  /** Throws usage for what can be checked without the model. */
  void check() const;
  /** Of --memory. */
  size_t bytes() const;
  /** How the report is to look. */
  report::SweepStyle style() const;
};

/** Runs a sweep and makes its report in that style; `work` does both. Then
 * warns of odd runs and writes the files asked for, and the JSON or the
 * metric of both runs, the grid and what it cost. */
void run_sweep(
    const SweepArguments& arguments,
    const InterpretableModel& model,
    const report::SweepStyle& style,
    const std::function<report::SweepReport()>& work);

/** The grid, and the largest of many cells. */
std::string grid_text(const report::Heatmap& map);

/** report::runs_text() as a line of the answer. */
std::string runs_line(const std::string& metric, const Sweep& sweep);

/** Those warnings of a report that its style did not bring, which were told. */
void tell_of_runs(
    const report::SweepStyle& style, const std::vector<std::string>& all);

/** Seconds that `work` takes. */
double seconds_of(const std::function<void()>& work);

/** Median seconds of five plain forward passes on these ids. */
double forward_seconds(
    const InterpretableModel& model, const std::vector<int>& ids);

}  // namespace mlxterp::cli
