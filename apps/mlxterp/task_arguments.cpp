#include "task_arguments.h"

#include <fmt/format.h>

namespace mlxterp::cli {

std::string task_help() {
  std::string text;
  for (const auto& info : task_list())
    text += fmt::format(
        "{}{}: {}", text.empty() ? "" : "; ", info.name, info.about);
  return text;
}

void TaskArguments::add_to(CLI::App& app) {
  app.add_option(
      "--task",
      task,
      "Use the prompts and metric of a task (see mlxterp tasks)");
  app.add_option("--n", options.pairs, "Number of pairs of the task")
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Random seed of the task")
      ->capture_default_str();
}

void TaskArguments::fill(
    const InterpretableModel& model, PatchOptions& patch) const {
  const auto made = make_task(model, task, options);
  patch.clean = made.clean();
  patch.corrupt = made.corrupt();
  patch.metric = made.metric();
}

}  // namespace mlxterp::cli
