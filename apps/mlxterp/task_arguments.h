// apps/mlxterp/task_arguments.h: pairs of prompts by the name of a task.

#pragma once

#include <string>

#include "arguments.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/analysis/tasks.h"

namespace mlxterp::cli {

/** The tasks there are, for a help text. */
std::string task_help();

/** --task, --n and --seed, in place of prompts and a metric. */
struct TaskArguments {
  std::string task;
  TaskOptions options;

  void add_to(CLI::App& app);
  bool given() const { return !task.empty(); }
  /** Draws the pairs: sets clean, corrupt and metric. */
  void fill(const InterpretableModel& model, PatchOptions& patch) const;
};

}  // namespace mlxterp::cli
