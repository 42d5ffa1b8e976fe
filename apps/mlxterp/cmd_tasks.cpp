// mlxterp tasks: generated pairs of prompts, and how well the model does.

#include <fmt/format.h>
#include <unistd.h>

#include <memory>

#include "arguments.h"
#include "mlxterp/analysis/tasks.h"
#include "mlxterp/report/names.h"
#include "mlxterp/report/tasks.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "task_arguments.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  std::string task;
  TaskOptions options;
};

// " Mary" or, where there are several, "5 6 7 8 9".
std::string shown_answers(
    const InterpretableModel& model, const std::vector<int>& ids) {
  constexpr size_t most = 10;
  if (ids.size() == 1) return report::label(model, ids[0]);
  std::string text;
  for (size_t i = 0; i < ids.size() && i < most; ++i)
    text += (i > 0 ? " " : "") + report::label(model, ids[i]);
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
         report::prompt_text(model, pair.clean_ids)});
    table.add({"", "", "", "", report::prompt_text(model, pair.corrupt_ids)});
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

void run(const Arguments& arguments) {
  arguments.model.check();
  const auto model = arguments.model.load();
  std::vector<std::string> warnings;
  const auto task =
      find_task(model, arguments.task, arguments.options, warnings);
  const auto scores = score(model, task);
  print(
      arguments.model.json ? arguments.model.answer(report::to_json(
                                 model,
                                 arguments.model.model,
                                 task,
                                 arguments.options,
                                 scores,
                                 arguments.model.edits))
                           : table(model, task, scores));
}

}  // namespace

Run add_tasks(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Pairs of clean and corrupted prompts for a task, and how well the model "
      "does");
  a.model.add_run_to(app);
  app.add_option("TASK", a.task, task_help() + "; or a file of your own")
      ->required();
  app.add_option("--n", a.options.pairs, "Number of pairs")
      ->capture_default_str();
  app.add_option("--seed", a.options.seed, "Random seed")
      ->capture_default_str();
  app.footer(
      "A file of your own is JSON, as --json answers: {\"pairs\": [{\"clean\": "
      "\"...\",\n\"corrupt\": \"...\", \"answers\": [\" Mary\"], "
      "\"foils\": [\" John\"]}, ...]}\n\nExample:\n  mlxterp tasks demo ioi "
      "--n 8 --json\n\nmlxterp patch demo --task ioi --n 8 sweeps the same "
      "pairs.");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
