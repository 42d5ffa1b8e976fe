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

/** Runs a sweep and makes its report; `work` does both. Then writes the files
 * asked for, and the JSON or the grid and what it cost. */
void run_sweep(
    const SweepArguments& arguments,
    const InterpretableModel& model,
    const std::function<report::SweepReport()>& work);

/** Seconds that `work` takes. */
double seconds_of(const std::function<void()>& work);

/** Median seconds of five plain forward passes on these ids. */
double forward_seconds(
    const InterpretableModel& model, const std::vector<int>& ids);

}  // namespace mlxterp::cli
