// mlxterp verify: checks that a model's sites are consistent.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "arguments.h"
#include "mlxterp/analysis/verify.h"
#include "mlxterp/report/verify.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
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

void run(const Arguments& arguments) {
  const bool own = arguments.prompt.given();
  if (own) arguments.prompt.check();
  arguments.model.check();
  const auto model = arguments.model.load();
  const auto ids = own ? arguments.prompt.tokens(model) : verify_prompt(model);
  const auto checks = verify(model, {.prompt = ids, .progress = progress()});
  end_progress();
  print(
      arguments.model.json ? arguments.model.answer(report::to_json(
                                 model,
                                 arguments.model.model,
                                 ids,
                                 checks,
                                 arguments.model.edits))
                           : table(checks));
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
  app.description(
      "Check that a model's sites are consistent with each other and with its "
      "output, in this precision");
  arguments->model.add_run_to(app);
  arguments->prompt.add_to(app);
  app.footer(
      "Errors are relative to the largest magnitude compared with; a bound of "
      "0 means\nbitwise equality. Without PROMPT a short built-in text is "
      "used; "
      "a sliding window\nlonger than the prompt is not tested, so give a "
      "longer "
      "prompt for that. Exits\nwith 3 if a check fails.\n\nExample:\n  mlxterp "
      "verify "
      "demo\n  mlxterp verify org/name --dtype bfloat16 --ids 1..2000");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
