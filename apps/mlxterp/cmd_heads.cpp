// mlxterp heads: what attention heads attend to, and the effect of ablating
// them.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "arguments.h"
#include "mlxterp/analysis/heads.h"
#include "mlxterp/report/heads.h"
#include "mlxterp/spec/choice.h"
#include "mlxterp/view/heatmap.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "task_arguments.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  TaskArguments task;
  RepeatedTokens tokens;
  std::string measure = "mean", kind, ablation = "zero";
  bool exclude_first = false, exclude_current = false, circuits = false;
  int top = 5, ablate = 0, draws = 5;
  Output output;
};

void check_kind(const Arguments& arguments) {
  if (arguments.kind.empty()) return;
  std::string known;
  for (const auto kind : head_kinds) {
    if (arguments.kind == name(kind)) return;
    known += fmt::format("{}, ", name(kind));
  }
  const bool of_weights =
      arguments.kind == "copying" || arguments.kind == "matching";
  if (arguments.circuits && of_weights) return;
  usage(fmt::format(
      "--kind '{}' is not one of {}or, with --circuits, copying, matching",
      view::escape(arguments.kind),
      known));
}

void check(const Arguments& arguments) {
  const bool given = arguments.prompt.given() || arguments.task.given();
  arguments.task.check_alone(arguments.prompt.given(), "PROMPT and --ids");
  if (arguments.prompt.given()) arguments.prompt.check();
  if (given && arguments.ablate > 0)
    usage("--ablate runs on repeated random tokens; leave out the prompt");
  if (arguments.top < 1) usage("--top must be at least 1");
  if (arguments.ablate < 0)
    usage("--ablate must not be negative; it is a number of heads");
  check_kind(arguments);
  arguments.model.check();
  arguments.output.check();
}

std::string table(const report::HeadReport& report) {
  view::Table table({{"kind"}, {"best heads"}});
  for (const auto& [kind, grid] : report.grids) {
    std::string best;
    for (const auto& head : grid.best(static_cast<size_t>(report.top)))
      best += fmt::format(
          "{}{} {:.3f}", best.empty() ? "" : "  ", name(head), grid.at(head));
    table.add({kind, best});
  }
  return table.text(view::terminal(STDOUT_FILENO));
}

std::string list(const std::vector<Head>& heads) {
  std::string text;
  for (const auto& head : heads)
    text += (text.empty() ? "" : " ") + name(head);
  return text;
}

std::string ablation_text(const InductionAblation& result, const char* value) {
  auto text = fmt::format(
      "\nLoss of repeated tokens {:.3f} nats, of new tokens {:.3f}: a gain of "
      "{:.3f}.\nWith {} ablated to {}: loss {:.3f}, {:.0f}% of the gain is "
      "lost.\n",
      result.repeated,
      result.first,
      result.first - result.repeated,
      list(result.best.heads),
      value,
      result.best.loss,
      100 * result.best.removed);
  if (result.random.empty()) return text;
  text += fmt::format(
      "With as many random heads of the same layers ablated, {} draws: "
      "{:.0f}% on average (",
      result.random.size(),
      100 * result.removed_at_random());
  for (size_t i = 0; i < result.random.size(); ++i)
    text += fmt::format(
        "{}{:.0f}%", i > 0 ? ", " : "", 100 * result.random[i].removed);
  return text + ").\n";
}

report::HeadReport report_of(
    const Arguments& arguments, const InterpretableModel& model) {
  const bool own = arguments.prompt.given(), task = arguments.task.given();
  const bool given = own || task;
  // Member by member: GCC 12 crashes where one of a braced list throws.
  report::HeadReport out;
  out.model = arguments.model.model;
  out.measure = spec::parse_head_measure(arguments.measure, "--measure");
  if (task) {
    auto draw = arguments.task;
    draw.options.seed = arguments.tokens.seed;
    std::vector<std::string> warnings;  // told; there is no metric here
    for (const auto& pair : draw.make(model, warnings).pairs)
      out.prompts.push_back(pair.clean_ids);
    out.task = draw.name();
  } else if (own) {
    out.prompts.push_back(arguments.prompt.tokens(model));
  } else {
    out.prompts = repeated_tokens(model, arguments.tokens);
  }
  out.top = arguments.top;
  out.ablated_to = spec::parse_head_ablation(arguments.ablation, "--ablation");
  if (!given) out.repeated = arguments.tokens;
  out.edits = arguments.model.edits;
  const auto scores = head_scores(
      model,
      out.prompts,
      {.measure = out.measure,
       .exclude_first = arguments.exclude_first,
       .exclude_current = arguments.exclude_current,
       .progress = progress()});
  for (const auto kind : head_kinds)
    out.grids.emplace_back(name(kind), scores[kind]);
  if (arguments.circuits)
    report::add_circuits(out, head_circuits(model, progress()));
  if (arguments.ablate > 0)
    out.ablation = induction_ablation(
        model,
        {.tokens = arguments.tokens,
         .heads = arguments.ablate,
         .value = out.ablated_to,
         .draws = arguments.draws,
         .progress = progress()});
  end_progress();
  return out;
}

void run(const Arguments& arguments) {
  check(arguments);
  // Before the model is loaded.
  spec::parse_head_measure(arguments.measure, "--measure");
  spec::parse_head_ablation(arguments.ablation, "--ablation");
  const auto report = report_of(arguments, arguments.model.load());
  const auto map = report::heatmap(
      report, arguments.kind.empty() ? "induction" : arguments.kind);
  Tensors tensors;
  for (const auto& [kind, grid] : report.grids)
    tensors.emplace_back(
        kind, mlx::core::array(grid.values.data(), {grid.layers, grid.heads}));
  arguments.output.write(
      tensors,
      {{"model", report.model},
       {"measure", arguments.measure},
       {"ids", report.prompts}});
  arguments.output.write(map);
  if (arguments.model.json) {
    print(arguments.model.answer(report::to_json(report)));
    return;
  }
  auto text = table(report);
  if (!arguments.kind.empty())
    text += "\n" + view::heatmap_text(map, view::terminal(STDOUT_FILENO));
  if (report.ablation)
    text += ablation_text(*report.ablation, arguments.ablation.c_str());
  print(text);
}

}  // namespace

Run add_heads(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Attention heads: what they attend to, and the effect of ablating them");
  a.model.add_run_to(app);
  a.prompt.add_to(app);
  a.task.add_to(app, /*seed=*/false);
  app.add_option(
         "--period",
         a.tokens.period,
         "Without PROMPT: length of the random sequence to repeat")
      ->capture_default_str();
  app.add_option("--repeats", a.tokens.repeats, "How many times it is repeated")
      ->capture_default_str();
  app.add_option(
         "--sequences",
         a.tokens.sequences,
         "Number of such sequences to average over")
      ->capture_default_str();
  app.add_option(
         "--seed", a.tokens.seed, "Random seed of the tokens, or of the task")
      ->capture_default_str();
  app.add_option(
         "--measure",
         a.measure,
         "mean: attention to the matching sources, averaged over destinations "
         "that have any; mul, abs: as in TransformerLens' detect_head")
      ->capture_default_str();
  app.add_flag(
      "--exclude-first", a.exclude_first, "Ignore attention to position 0");
  app.add_flag(
      "--exclude-current",
      a.exclude_current,
      "Ignore attention of positions to themselves");
  app.add_flag(
      "--circuits",
      a.circuits,
      "Also score the weights: copying (OV circuit), matching (QK circuit)");
  app.add_option("--top", a.top, "Heads to list of each kind")
      ->capture_default_str();
  app.add_option(
      "--kind",
      a.kind,
      "Print the grid of this kind, which is also the one of --html (default "
      "there: induction): induction, previous_token, duplicate_token, "
      "first_token, current_token, copying, "
      "matching");
  app.add_option(
      "--ablate",
      a.ablate,
      "Ablate this many of the best induction heads and measure the loss of "
      "repeated tokens");
  app.add_option("--ablation", a.ablation, "Value to ablate to: zero or mean")
      ->capture_default_str();
  app.add_option(
         "--draws",
         a.draws,
         "Number of random sets of other heads to compare with")
      ->capture_default_str();
  a.output.add_to(app);
  app.footer(
      "Example:\n  mlxterp heads demo --circuits --ablate 5 --html heads.html");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
