// mlxterp dla: a logit as the sum of each component's contribution.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "arguments.h"
#include "mlxterp/analysis/logit_attribution.h"
#include "mlxterp/report/logit_attribution.h"
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
  std::vector<std::string> more, metrics;
  std::string unit = "component";
  int position = -1, top = 20;
  Output output;
};

void check(const Arguments& arguments, Unit unit) {
  const auto& a = arguments;
  a.task.check_alone(
      a.prompt.given() || !a.metrics.empty() || !a.more.empty(),
      "PROMPT, --ids, --more and --metric");
  if (!a.task.given()) a.prompt.check();
  arguments.model.check();
  if (!a.task.given() && arguments.metrics.empty())
    usage("no --metric: logit(A) or logit_diff(A,B)");
  if (arguments.top < 1) usage("--top must be at least 1");
  if (unit == Unit::neuron && arguments.output.page)
    usage(
        "--html shows heads and components, not neurons; use --unit head or "
        "component, or write numbers with -o");
  arguments.output.check();
}

size_t size(int n) {
  return static_cast<size_t>(n);
}

// Layer by layer, with the logit accumulated so far.
std::string layers_text(
    const LogitAttribution& dla,
    const report::Heatmap& map,
    const view::Terminal& terminal) {
  using enum view::Align;
  std::vector<view::Table::Column> columns = {{"layer", right}};
  for (const auto& part : map.columns)
    columns.push_back({part, right});
  columns.push_back({"accumulated", right});
  view::Table table(columns);
  const auto text = [](float x) { return fmt::format("{:+.4f}", x); };
  // A running sum reads downwards; the map's last layer is on top.
  const size_t parts = map.columns.size();
  std::vector<std::string> first(parts + 1);
  first.push_back(text(dla.accumulated[0]));
  table.add(std::move(first));
  for (size_t i = 0, row = map.rows.size(); row-- > 0; ++i) {
    std::vector<std::string> cells = {map.rows[row]};
    for (size_t part = 0; part < parts; ++part)
      cells.push_back(text(map.values[parts * row + part]));
    cells.push_back(text(dla.accumulated[i + 1]));
    table.add(std::move(cells));
  }
  return table.text(terminal);
}

// The largest parts, each with a bar to either side of nothing.
std::string parts_text(
    const LogitAttribution& dla, int top, const view::Terminal& terminal) {
  constexpr double bar = 24;
  auto parts = dla.parts;
  std::ranges::stable_sort(parts, std::greater<>(), [](const auto& part) {
    return std::abs(part.value);
  });
  const auto shown = std::min(parts.size(), size(top));
  const bool spread = dla.prompts > 1;
  using enum view::Align;
  std::vector<view::Table::Column> columns = {
      {"component", left}, {"contribution", right}, {"of the sum", right}};
  if (spread) columns.push_back({"spread", right});
  columns.push_back({"", left});
  view::Table table(columns);
  const auto add = [&](const std::string& what,
                       double value,
                       double deviation,
                       const std::string& drawn) {
    std::vector<std::string> cells = {
        what,
        fmt::format("{:+.4f}", value),
        dla.sum == 0
            ? ""
            : fmt::format(
                  "{:.1f}%", 100 * value / static_cast<double>(dla.sum))};
    if (spread)
      cells.push_back(drawn.empty() ? "" : fmt::format("{:.4f}", deviation));
    cells.push_back(drawn);
    table.add(std::move(cells));
  };
  double rest = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto value = static_cast<double>(parts[i].value);
    if (i >= shown) {
      rest += value;
      continue;
    }
    const double share =
        std::abs(value) /
        std::max(static_cast<double>(std::abs(parts[0].value)), 1e-30);
    add(parts[i].name(),
        value,
        static_cast<double>(parts[i].spread),
        std::string(
            static_cast<size_t>(std::lround(bar * share)),
            value < 0 ? '-' : '+'));
  }
  if (shown < parts.size())
    add(fmt::format("{} others", parts.size() - shown), rest, 0, "");
  add("sum", static_cast<double>(dla.sum), 0, "");
  return table.text(terminal);
}

std::string text_of(
    const report::LogitAttributionReport& report,
    const report::Heatmap& map,
    int top) {
  const auto terminal = view::terminal(STDOUT_FILENO);
  const auto& dla = report.result;
  std::string text;
  if (report.unit == Unit::head)
    text = view::heatmap_text(map, terminal) + "\n";
  else if (report.unit == Unit::component)
    text = layers_text(dla, map, terminal) + "\n";
  text += parts_text(dla, top, terminal);
  return text +
         fmt::format(
             "\n{} as the model computes it: {:+.4f}{}\n",
             view::escape(fmt::format("{}", fmt::join(report.metrics, ", "))),
             dla.model,
             dla.softcap > 0
                 ? fmt::format(
                       ", after the soft cap at +-{:g}; contributions are "
                       "before it",
                       dla.softcap)
                 : "");
}

void run(const Arguments& arguments) {
  const auto unit = spec::parse_unit(arguments.unit, "--unit");
  check(arguments, unit);
  const auto model = arguments.model.load();
  std::vector<std::string> warnings;
  Inputs::Rows prompts;
  Metric metric;
  auto metrics = arguments.metrics;
  if (arguments.task.given()) {
    const auto task = arguments.task.make(model, warnings);
    for (const auto& pair : task.pairs)
      prompts.push_back(pair.clean_ids);
    metric = task.metric();
    metrics = {metric.name};
  } else {
    prompts.push_back(arguments.prompt.tokens(model));
    for (const auto& text : arguments.more)
      prompts.push_back(encode(model, text, arguments.prompt.special));
    metric =
        spec::parse_metric(model, metrics, metric_options(warnings, prompts));
  }
  metric.position = arguments.position;
  auto report = report::logit_attribution_report(
      model,
      arguments.model.model,
      metrics,
      unit,
      logit_attribution(
          model,
          {.prompts = std::move(prompts),
           .metric = std::move(metric),
           .unit = unit,
           .progress = progress()}));
  end_progress();
  report.edits = arguments.model.edits;
  report.warnings = warnings;
  report.task = arguments.task.name();
  const auto map = report::heatmap(report);
  arguments.output.write(
      report::tensors(report.result),
      {{"model", arguments.model.model},
       {"metric", metrics},
       {"unit", arguments.unit},
       {"position", int64_t{arguments.position}},
       {"ids", report.result.ids}});
  arguments.output.write(map);
  print(
      arguments.model.json ? arguments.model.answer(report::to_json(report))
                           : text_of(report, map, arguments.top));
}

}  // namespace

Run add_dla(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description(
      "Direct logit attribution: what each component contributes to a logit");
  a.model.add_run_to(app);
  a.prompt.add_to(app);
  a.task.add_to(app);
  add_list(
      app, "--more", a.more, "Another prompt to average over; repeat for more");
  add_list(
      app,
      "--metric",
      a.metrics,
      "logit(A) or logit_diff(A,B); tokens as they are, spaces included, or "
      "id:N; once for all prompts or once for each");
  app.add_option("--unit", a.unit, "component, head or neuron")
      ->capture_default_str();
  app.add_option("--position", a.position, "Position whose logits are read")
      ->capture_default_str();
  app.add_option("--top", a.top, "Number of components to list")
      ->capture_default_str();
  a.output.add_to(app);
  app.footer(
      "Example:\n  mlxterp dla demo \\\n    'When Mary and John went to the "
      "store, John gave a drink to' \\\n    --metric 'logit_diff( Mary, John)' "
      "--unit head");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
