// apps/mlxterp/task_arguments.h: pairs of prompts by the name of a task, or
// from a file.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "arguments.h"
#include "mlxterp/analysis/patch.h"
#include "mlxterp/analysis/tasks.h"

namespace mlxterp::cli {

/** The tasks there are, for a help text. */
std::string task_help();

/** A task by its name, with the options, or where there is none of that name
 * those of a file (spec::parse_task), told of in `warnings`. */
Task find_task(
    const InterpretableModel& model,
    const std::string& name,
    const TaskOptions& options,
    std::vector<std::string>& warnings);

/** --task, --n and --seed, in place of prompts and a metric. */
struct TaskArguments {
  std::string task;
  TaskOptions options;

  /** `seed`: false where the verb has a --seed of its own, which then is the
   * task's too. */
  void add_to(CLI::App& app, bool seed = true);
  bool given() const { return !task.empty(); }
  /** Of a report. */
  std::optional<std::string> name() const;
  /** Throws usage where there is a prompt or metric too; `theirs`: the options
   * that they would come from. */
  void check_alone(bool others, const std::string& theirs) const;
  Task make(const InterpretableModel& model, std::vector<std::string>& warnings)
      const;
  /** Draws the pairs: sets clean, corrupt and metric, of PatchOptions and
   * PathPatchOptions. */
  template <typename Options>
  void fill(
      const InterpretableModel& model,
      Options& out,
      std::vector<std::string>& warnings) const {
    const auto made = make(model, warnings);
    out.clean = made.clean();
    out.corrupt = made.corrupt();
    out.metric = made.metric();
  }
};

}  // namespace mlxterp::cli
