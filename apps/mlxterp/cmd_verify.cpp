// mlxterp verify: whether a model's sites mean what they say.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "common.h"
#include "mlxterp/trace/verify.h"
#include "mlxterp/view/terminal.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
};

std::string number_text(double x) {
  return std::isnan(x) ? "NaN" : x == 0 ? "0" : fmt::format("{:.1e}", x);
}

std::string table(const std::vector<Check>& checks) {
  using view::Align;
  view::Table table(
      {{"check"},
       {"largest error", Align::right},
       {"bound", Align::right},
       {"verdict"},
       {"where"}});
  for (const auto& check : checks)
    table.add(
        {check.name,
         number_text(check.error),
         number_text(check.bound),
         check.passed() ? "ok" : "FAILED",
         check.where});
  return table.text(view::terminal(STDOUT_FILENO));
}

Json to_json(
    const Arguments& arguments,
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const std::vector<Check>& checks) {
  Json out;
  out["model"] = arguments.model.model;
  out["tokens"] = Json::array();
  const auto names = labels(model, ids);
  for (size_t i = 0; i < ids.size(); ++i)
    out["tokens"].push_back({{"id", ids[i]}, {"text", names[i]}});
  out["passed"] = std::ranges::all_of(checks, &Check::passed);
  out["checks"] = Json::array();
  for (const auto& check : checks)
    out["checks"].push_back(
        {{"name", check.name},
         {"error", number(check.error)},
         {"bound", number(check.bound)},
         {"passed", check.passed()},
         {"compared", check.compared},
         {"where", check.where}});
  return out;
}

void run(const Arguments& arguments) {
  const bool own = arguments.prompt.text || !arguments.prompt.ids.empty();
  if (own) arguments.prompt.check();
  const auto model = arguments.model.load();
  const auto ids = own ? arguments.prompt.tokens(model) : verify_prompt(model);
  const auto checks = verify(model, {.prompt = ids, .progress = progress()});
  end_progress();
  if (arguments.model.json)
    print_json(to_json(arguments, model, ids, checks));
  else
    print(table(checks));
  const auto broken = std::ranges::count_if(
      checks, [](const Check& check) { return !check.passed(); });
  if (broken)
    throw Error(
        ErrorKind::bad_data,
        fmt::format(
            "{} of {} checks failed: {}",
            broken,
            checks.size(),
            failures(checks)));
}

}  // namespace

Run add_verify(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.description("Whether a model's sites add up, in this precision");
  arguments->model.add_to(app);
  arguments->prompt.add_to(app);
  app.footer(
      "Errors are relative to the largest value compared with; a bound of 0 "
      "means the\nsame bits. Without PROMPT a mixed text is taken; a sliding "
      "window longer than the\nprompt is not put to the test: give a longer "
      "one. Exits with 3 where a bound is\nbroken.\n\nExample:\n  mlxterp "
      "verify demo\n  mlxterp verify org/name --dtype bfloat16 --ids 1..2000");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
