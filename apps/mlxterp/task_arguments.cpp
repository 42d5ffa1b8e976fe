#include "task_arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "mlxterp/spec/task.h"
#include "mlxterp/view/terminal.h"

namespace mlxterp::cli {

std::string task_help() {
  std::string text;
  for (const auto& info : task_list())
    text += fmt::format(
        "{}{}: {}", text.empty() ? "" : "; ", info.name, info.about);
  return text;
}

Task find_task(
    const InterpretableModel& model,
    const std::string& name,
    const TaskOptions& options,
    std::vector<std::string>& warnings) {
  const bool known = std::ranges::any_of(
      task_list(), [&](const auto& info) { return info.name == name; });
  std::error_code error;
  if (known || !std::filesystem::exists(name, error))
    return make_task(model, name, options);
  const auto shown = view::escape(name);
  auto reading = metric_options(warnings, {}, shown);
  return spec::parse_task(model, read_text(name), reading);
}

void TaskArguments::add_to(CLI::App& app, bool seed) {
  app.add_option(
      "--task",
      task,
      "Use the prompts and metric of a task: a name (see mlxterp tasks), or a "
      "JSON file as mlxterp tasks --json writes it");
  app.add_option("--n", options.pairs, "Number of pairs of a named task")
      ->capture_default_str();
  if (seed)
    app.add_option("--seed", options.seed, "Random seed of the task")
        ->capture_default_str();
}

std::optional<std::string> TaskArguments::name() const {
  return given() ? std::optional(task) : std::nullopt;
}

void TaskArguments::check_alone(bool others, const std::string& theirs) const {
  if (given() && others)
    usage(fmt::format(
        "--task brings its own prompts and metric; leave out {}", theirs));
}

Task TaskArguments::make(
    const InterpretableModel& model, std::vector<std::string>& warnings) const {
  return find_task(model, task, options, warnings);
}

}  // namespace mlxterp::cli
