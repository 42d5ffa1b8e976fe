// mlxterp trace: one pass, its values read and edited, and what it predicts.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>

#include "arguments.h"
#include "mlxterp/report/trace.h"
#include "mlxterp/spec/range.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "progress.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptArguments prompt;
  std::vector<std::string> save, track, metrics;
  int top = 5;
  std::optional<std::string> output;
  bool force = false;
};

std::string shown(float x) {
  return std::isfinite(x) ? fmt::format("{:+.4f}", x) : "NaN";
}

std::string shown_percent(float x) {
  return std::isfinite(x) ? fmt::format("{:.2f}%", x * 100) : "NaN";
}

std::string saved_text(
    const std::vector<report::SiteStatistics>& saved,
    const view::Terminal& terminal) {
  if (saved.empty()) return "";
  using enum view::Align;
  // Long names stand at the end, where a line may be broken.
  constexpr size_t longest = 24;
  const bool last = std::ranges::any_of(
      saved, [](const auto& s) { return s.site.size() > longest; });
  const auto ordered = [last](auto cells) {
    if (last) std::rotate(cells.begin(), cells.begin() + 1, cells.end());
    return cells;
  };
  view::Table table(ordered(std::vector<view::Table::Column>{
      {"site"},
      {"shape"},
      {"dtype"},
      {"mean", right},
      {"std", right},
      {"norm", right},
      {"min", right},
      {"max", right}}));
  int64_t not_finite = 0;
  for (const auto& s : saved) {
    not_finite += s.not_finite;
    const auto cell = [](double x) { return fmt::format("{:.3g}", x); };
    table.add(ordered(std::vector{
        s.site,
        fmt::format("[{}]", fmt::join(s.shape, ", ")),
        s.dtype,
        cell(s.mean),
        cell(s.std),
        cell(s.norm),
        cell(static_cast<double>(s.min)),
        cell(static_cast<double>(s.max))}));
  }
  auto text = table.text(terminal);
  if (not_finite)
    text += fmt::format(
        "{} values are not finite (masked scores are -inf) and are left out\n",
        not_finite);
  return text + "\n";
}

std::vector<std::string> cells(const report::Prediction& p, size_t i) {
  if (i >= p.top.size()) return {i == 0 ? "not finite" : "", "", ""};
  const auto& entry = p.top[i];
  return {
      view::visible(entry.token.text),
      view::percent(entry.probability),
      fmt::format("{:.4f}", entry.logit)};
}

// The best tokens, side by side where there are edits.
std::string next_text(
    const report::TraceReport& report, const view::Terminal& terminal) {
  using enum view::Align;
  const auto& after = report.next_edited;
  std::vector<view::Table::Column> columns = {
      {after ? "next, unedited" : "next token"},
      {"prob", right},
      {"logit", right}};
  if (after)
    columns.insert(
        columns.end(), {{"next, edited"}, {"prob", right}, {"logit", right}});
  view::Table table(columns);
  const auto rows = std::max<size_t>(
      {report.next.top.size(), after ? after->top.size() : 0, 1});
  for (size_t i = 0; i < rows; ++i) {
    auto row = cells(report.next, i);
    if (after)
      for (auto& cell : cells(*after, i))
        row.push_back(std::move(cell));
    table.add(std::move(row));
  }
  return table.text(terminal);
}

// Tracked tokens and metrics, "before -> after" where there are edits.
std::string numbers_text(
    const report::TraceReport& report, const view::Terminal& terminal) {
  const auto& before = report.next;
  const auto& after = report.next_edited;
  if (before.track.empty() && before.metrics.empty()) return "";
  view::Table table({{""}, {""}});
  const auto moved = [](const std::string& from, const std::string& to) {
    return to.empty() ? from : fmt::format("{} -> {}", from, to);
  };
  for (size_t i = 0; i < before.track.size(); ++i)
    table.add(
        {fmt::format("prob({})", before.track[i].token.text),
         moved(
             shown_percent(before.track[i].probability),
             after ? shown_percent(after->track[i].probability) : "")});
  for (size_t i = 0; i < before.metrics.size(); ++i)
    table.add(
        {before.metrics[i].first,
         moved(
             shown(before.metrics[i].second),
             after ? shown(after->metrics[i].second) : "")});
  return "\n" + table.text(terminal);
}

std::string text_of(const report::TraceReport& report) {
  const auto terminal = view::terminal(STDOUT_FILENO);
  return saved_text(report.saved, terminal) + next_text(report, terminal) +
         numbers_text(report, terminal);
}

// What was saved, without what only the prediction needed.
std::vector<ActivationCache::Entry> chosen(
    const InterpretableModel& model,
    const ActivationCache& run,
    const std::vector<std::string>& patterns) {
  std::set<std::string> names;
  for (const auto& pattern : patterns)
    for (const auto site : model.sites().match(pattern))
      names.insert(model.sites()[site].name);
  std::vector<ActivationCache::Entry> out;
  for (const auto& entry : run)
    if (names.contains(entry.first)) out.push_back(entry);
  return out;
}

void run(const Arguments& arguments) {
  arguments.prompt.check();
  arguments.model.check();
  if (arguments.output) {
    if (arguments.save.empty()) usage("-o without --save: nothing to write");
    check_output(*arguments.output, arguments.force);
  }
  arguments.model.check_edits();
  const auto patterns = spec::parse_list(arguments.save, "--save");
  const auto plain = arguments.model.load_unedited();
  const auto model = arguments.model.edited(plain);
  const auto ids = arguments.prompt.tokens(model);
  report::PredictOptions wanted{.top = arguments.top};
  std::vector<std::string> warnings;
  for (const auto& token : arguments.track)
    wanted.track.push_back(spec::parse_token(
        model, token, metric_options(warnings, {ids}, "--track")));
  for (const auto& metric : arguments.metrics)
    wanted.metrics.push_back(
        spec::parse_metric(model, {metric}, metric_options(warnings, {ids})));

  report::TraceReport report{
      .model = arguments.model.model,
      .tokens = report::named(model, ids),
      .edits = arguments.model.edits,
      .output = arguments.output,
      .next = {}};
  auto sites = patterns;
  sites.emplace_back("logits");
  show_progress("Running the model");
  const auto values = model.run(ids, {.save = sites});
  report.next = report::predict(model, values["logits"], wanted);
  if (!arguments.model.edits.empty()) {
    report.next_edited = std::move(report.next);
    report.next = report::predict(
        plain, plain.run(ids, {.save = {"logits"}})["logits"], wanted);
  }
  end_progress();
  report.warnings = warnings;
  const auto saved = chosen(model, values, patterns);
  for (const auto& [name, value] : saved)
    report.saved.push_back(report::statistics(name, value));
  if (arguments.output) {
    const auto& text = arguments.prompt.text;
    write_tensors(
        *arguments.output,
        saved,
        {{"model", arguments.model.model},
         {"prompt", text ? report::Value(*text) : report::Value(nullptr)},
         {"ids", ids},
         {"edits", arguments.model.edits}},
        arguments.force);
  }
  print(
      arguments.model.json ? arguments.model.answer(report::to_json(report))
                           : text_of(report));
}

}  // namespace

Run add_trace(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  app.description(
      "Run one forward pass: read and edit its values, see what it predicts");
  arguments->model.add_run_to(app);
  arguments->prompt.add_to(app);
  add_list(
      app, "--save", arguments->save, "Sites to save: 'layers.*.attn.pattern'");
  app.add_option("--top", arguments->top, "Number of next tokens to show")
      ->capture_default_str();
  add_list(
      app,
      "--track",
      arguments->track,
      "A token whose probability to show: ' Paris' or id:7042");
  add_list(
      app,
      "--metric",
      arguments->metrics,
      "logit_diff(A,B), logit(A), prob(A), log_prob(A) or rank(A); tokens are "
      "written literally, spaces included, or as id:N");
  app.add_option(
      "-o,--output", arguments->output, "Write the saved sites as safetensors");
  app.add_flag("--force", arguments->force, "Replace the file if it exists");
  app.footer(
      "Edits: zero_out, scale(0.5), clamp(-1,1), noise(0.1,42), "
      "replace_with(0),\nadd_vector(FILE), add_vector(FILE:NAME, 0.5), "
      "project_out(FILE:NAME),\nclamp_along(FILE:NAME, 3), compose(EDIT, "
      "EDIT), at_positions(-1, EDIT),\nat_positions([0,3..5], EDIT), "
      "on_heads(7, EDIT), on_neurons(3, EDIT). Files are\nsafetensors, .npz "
      "or .npy. With a Jacobian lens, at layers.N.resid_post:\n"
      "lens_steer(FILE, ' Paris', 4), lens_ablate(FILE, ' Paris'), "
      "lens_swap(FILE,\n' Paris', ' Rome'), lens_clamp(FILE, ' Paris', "
      "' Rome', RUN).\n\nExample:\n  mlxterp trace demo 'The "
      "Eiffel Tower is located in the city of' \\\n    --edit "
      "'layers.4.mlp_out=scale(0)' --track ' Paris'");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
