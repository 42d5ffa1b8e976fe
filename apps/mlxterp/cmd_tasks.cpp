// mlxterp tasks: pairs of prompts made in code, and how well the model does.

#include <fmt/format.h>
#include <unistd.h>

#include <memory>

#include "common.h"
#include "mlxterp/analysis/tasks.h"
#include "mlxterp/view/terminal.h"
#include "task_arguments.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::string task;
  TaskOptions options;
};

std::string shown(
    const InterpretableModel& model, const std::vector<int>& ids) {
  std::string text;
  for (const auto& token : labels(model, ids))
    text += token;
  return text;
}

// " Mary" or, where there are several, "5 6 7 8 9".
std::string shown_answers(
    const InterpretableModel& model, const std::vector<int>& ids) {
  constexpr size_t most = 10;
  if (ids.size() == 1) return label(model, ids[0]);
  std::string text;
  for (size_t i = 0; i < ids.size() && i < most; ++i)
    text += (i > 0 ? " " : "") + label(model, ids[i]);
  return ids.size() > most ? text + " ..." : text;
}

std::string table(
    const InterpretableModel& model,
    const Task& task,
    const TaskScores& scores) {
  using view::Align;
  view::Table table(
      {{"clean", Align::right},
       {"corrupted", Align::right},
       {"for"},
       {"against"},
       {"prompts, the corrupted one below"}});
  for (size_t i = 0; i < task.pairs.size(); ++i) {
    const auto& pair = task.pairs[i];
    table.add(
        {fmt::format("{:+.3f}", scores.clean[i]),
         fmt::format("{:+.3f}", scores.corrupt[i]),
         view::visible(shown_answers(model, pair.answers)),
         view::visible(shown_answers(model, pair.foils)),
         shown(model, pair.clean_ids)});
    table.add({"", "", "", "", shown(model, pair.corrupt_ids)});
  }
  return table.text(view::terminal(STDOUT_FILENO)) +
         fmt::format(
             "\n{}: clean {:+.4f}, corrupted {:+.4f} on average; {:.0f}% of "
             "clean prompts above 0\n",
             task.metric().name,
             scores.clean_mean,
             scores.corrupt_mean,
             100 * scores.accuracy);
}

Json tokens(const InterpretableModel& model, const std::vector<int>& ids) {
  auto out = Json::array();
  const auto names = labels(model, ids);
  for (size_t i = 0; i < ids.size(); ++i)
    out.push_back({{"id", ids[i]}, {"text", names[i]}});
  return out;
}

Json to_json(
    const Arguments& arguments,
    const InterpretableModel& model,
    const Task& task,
    const TaskScores& scores) {
  Json out;
  out["model"] = arguments.model.model;
  out["task"] = task.name;
  out["seed"] = arguments.options.seed;
  out["metric"] = {
      {"name", task.metric().name},
      {"clean", number(scores.clean_mean)},
      {"corrupt", number(scores.corrupt_mean)},
      {"accuracy", number(scores.accuracy)}};
  out["pairs"] = Json::array();
  for (size_t i = 0; i < task.pairs.size(); ++i) {
    const auto& pair = task.pairs[i];
    Json entry;
    entry["clean"] = shown(model, pair.clean_ids);
    entry["corrupt"] = shown(model, pair.corrupt_ids);
    entry["clean_ids"] = pair.clean_ids;
    entry["corrupt_ids"] = pair.corrupt_ids;
    entry["answers"] = tokens(model, pair.answers);
    entry["foils"] = tokens(model, pair.foils);
    entry["metric"] = {
        {"clean", number(scores.clean[i])},
        {"corrupt", number(scores.corrupt[i])}};
    out["pairs"].push_back(std::move(entry));
  }
  return out;
}

void run(const Arguments& arguments) {
  const auto model = arguments.model.load();
  const auto task = make_task(model, arguments.task, arguments.options);
  const auto scores = score(model, task);
  if (arguments.model.json)
    print_json(to_json(arguments, model, task, scores));
  else
    print(table(model, task, scores));
}

}  // namespace

Run add_tasks(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("Clean and corrupted prompts of a task, made in code");
  a.model.add_to(app);
  app.add_option("TASK", a.task, task_help())->required();
  app.add_option("--n", a.options.pairs, "How many pairs")
      ->capture_default_str();
  app.add_option("--seed", a.options.seed, "What they are drawn from")
      ->capture_default_str();
  app.footer(
      "Example:\n  mlxterp tasks demo ioi --n 8 --json\n\nmlxterp patch demo "
      "--task ioi --n 8 sweeps the same pairs.");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
