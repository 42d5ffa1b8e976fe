// mlxterp edges: what each edge between two parts of a model does.

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <memory>

#include "mlxterp/analysis/edges.h"
#include "mlxterp/report/edges.h"
#include "mlxterp/spec/choice.h"
#include "mlxterp/view/terminal.h"
#include "output.h"
#include "pairs.h"
#include "progress.h"
#include "sweep.h"
#include "task_arguments.h"
#include "verbs.h"

namespace mlxterp::cli {

namespace {

struct Arguments {
  ModelArguments model;
  PromptPairs prompts;
  TaskArguments task;
  std::vector<std::string> metrics;
  std::string method = "eap", rule = "left", direction = "denoise";
  int steps = 5, top = 20;
  double sample = 0;
  bool ungrouped = false, by_position = false, compare_cost = false;
  std::optional<std::string> file;
  bool force = false;
};

// Member by member: GCC 12 crashes where one of a braced list throws.
EdgeOptions options_of(const Arguments& a) {
  EdgeOptions out{.clean = Inputs::Rows(), .corrupt = Inputs::Rows()};
  out.method = spec::parse_edge_method(a.method, "--method");
  out.direction = spec::parse_direction(a.direction, "--direction");
  out.rule = spec::parse_line_rule(a.rule, "--rule");
  out.steps = a.steps;
  out.ungrouped = a.ungrouped;
  out.by_position = a.by_position;
  out.sample = a.sample;
  out.seed = a.task.options.seed;
  out.progress = progress();
  return out;
}

// That nothing is given which information flow routes do not read.
void check_flow(const Arguments& a) {
  const auto& p = a.prompts;
  const char* more = a.task.given()           ? "--task"
                     : !a.metrics.empty()     ? "--metric"
                     : !p.corrupt.empty()     ? "--corrupt"
                     : !p.corrupt_ids.empty() ? "--corrupt-ids"
                                              : nullptr;
  if (more)
    usage(fmt::format(
        "--method ifr reads how the stream of a plain run is made up: it "
        "measures nothing and compares with no other prompt; leave out {}, and "
        "give --clean or --clean-ids",
        more));
  if (p.clean.empty() == p.clean_ids.empty())
    usage(
        p.clean.empty() ? "no --clean; give one, or --clean-ids"
                        : "--clean and --clean-ids: give one, not both");
}

// Which edges are shown. A share of a stream that one source makes up alone, as
// all of the first layer's do, is 1 and tells nothing.
std::vector<size_t> shown(const report::EdgesReport& report, int top) {
  const auto& found = report.found;
  if (!report.metric.empty()) return found.strongest(static_cast<size_t>(top));
  auto all = found.strongest(found.scores.size());
  std::erase_if(all, [&](size_t i) {
    return found.destinations[i % found.destinations.size()].before == 1;
  });
  all.resize(std::min(all.size(), static_cast<size_t>(top)));
  return all;
}

// The strongest edges, each with a bar to either side of nothing.
std::string table_text(
    const report::EdgesReport& report,
    int top,
    const view::Terminal& terminal) {
  constexpr float bar = 24;
  const auto& found = report.found;
  const auto strongest = shown(report, top);
  const bool spread = found.pairs > 1;
  using enum view::Align;
  std::vector<view::Table::Column> columns = {
      {"from", left}, {"to", left}, {"score", right}};
  if (found.positions > 0) columns.insert(columns.begin(), {"pos", right});
  if (spread) columns.push_back({"spread", right});
  const bool sample = !found.exact.empty();
  if (sample) columns.push_back({"exact", right});
  columns.push_back({"", left});
  view::Table table(columns);
  const auto to = found.destinations.size(), from = found.sources.size();
  const float largest =
      strongest.empty() ? 0 : std::abs(found.scores[strongest[0]]);
  for (const auto i : strongest) {
    const float score = found.scores[i];
    std::vector<std::string> cells = {
        found.sources[i / to % from].name,
        found.destinations[i % to].name,
        fmt::format("{:+.4f}", score)};
    if (found.positions > 0)
      cells.insert(cells.begin(), fmt::format("{}", i / to / from));
    if (spread) cells.push_back(fmt::format("{:.4f}", found.spread[i]));
    if (sample)
      cells.push_back(
          std::isnan(found.exact[i]) ? ""
                                     : fmt::format("{:+.4f}", found.exact[i]));
    const float share = largest > 0 ? std::abs(score) / largest : 0;
    cells.emplace_back(
        static_cast<size_t>(std::lround(bar * share)), score < 0 ? '-' : '+');
    table.add(std::move(cells));
  }
  return table.text(terminal);
}

// How far the estimate is off, by depth.
std::string errors_text(
    const EdgeScores& found, const view::Terminal& terminal) {
  using enum view::Align;
  view::Table table(
      {{"layers apart", right},
       {"edges run", right},
       {"mean error", right},
       {"rms", right},
       {"68% within", right},
       {"90% within", right}});
  for (const auto& it : found.errors)
    table.add(
        {fmt::format("{}", it.distance),
         fmt::format("{}", it.edges),
         fmt::format("{:+.5f}", it.mean),
         fmt::format("{:.5f}", it.rms),
         fmt::format("{:.5f}", it.within_68),
         fmt::format("{:.5f}", it.within_90)});
  auto text = table.text(terminal);
  const auto& c = found.coverage;
  if (!std::isnan(c.within_90))
    text +=
        "\n" +
        view::paragraph(
            fmt::format(
                "Of edges held out, {:.1f}% lie within the 68% bands of the "
                "others and {:.1f}% within the 90% bands; of the tenth with "
                "the largest scores {:.1f}%.",
                100 * c.within_68,
                100 * c.within_90,
                100 * c.strong_90),
            terminal) +
        "\n";
  return text;
}

std::string text_of(const report::EdgesReport& report, int top) {
  const auto& found = report.found;
  const auto terminal = view::terminal(STDOUT_FILENO);
  const bool denoise = found.direction == Direction::denoise;
  auto text = view::escape(report::runs_text(report)) + "\n\n";
  text += table_text(report, top, terminal) + "\n";
  if (!found.errors.empty()) text += errors_text(found, terminal) + "\n";
  const auto meaning =
      report.metric.empty()
          ? "the share of the source in the stream that the destination reads" +
                std::string(
                    found.positions > 0 ? "" : ", mean over positions") +
                " (not listed where it is the only source)"
          : fmt::format(
                "how much the {} run's metric would change if the edge alone "
                "brought the {} run's value",
                denoise ? "corrupted" : "clean",
                denoise ? "clean" : "corrupted");
  text += view::paragraph(
              fmt::format(
                  "{} edges from {} sources to {} destinations in {:.3g} s; a "
                  "score is {}.",
                  found.edges(),
                  found.sources.size(),
                  found.destinations.size(),
                  *report.seconds,
                  meaning),
              terminal) +
          "\n";
  if (const auto forward = report.forward_seconds)
    text += fmt::format(
        "{:.2g} forward passes of {:.3g} s\n",
        *report.seconds / *forward,
        *forward);
  return text;
}

void run(const Arguments& arguments) {
  const auto& a = arguments;
  a.task.check_alone(!(a.prompts.empty() && a.metrics.empty()), pair_options);
  auto options = options_of(a);
  const bool flow = options.method == EdgeMethod::ifr;
  if (flow) {
    check_flow(a);
  } else if (!a.task.given()) {
    a.prompts.check();
    if (a.metrics.empty()) usage(no_metric);
  }
  if (a.top < 1) usage("--top must be at least 1");
  a.model.check();
  if (a.file) check_output(*a.file, a.force);
  const auto model = a.model.load();
  report::SweepStyle style{.model = a.model.model};
  style.task = a.task.name();
  if (a.task.given()) {
    a.task.fill(model, options, style.warnings);
  } else {
    const auto [clean, corrupt] = a.prompts.tokens(model, /*mapped=*/true);
    options.clean = clean;
    options.corrupt = corrupt;
    if (!flow)
      options.metric = spec::parse_metric(
          model, a.metrics, metric_options(style.warnings, clean));
  }
  EdgeScores found;
  const double seconds = seconds_of([&] { found = edges(model, options); });
  auto report = report::edges_report(model, options, std::move(found), style);
  report.seconds = seconds;
  tell_of_runs(style, report.warnings);
  end_progress();
  if (a.compare_cost)
    report.forward_seconds = forward_seconds(model, report.found.ids);
  if (a.file)
    write_tensors(
        *a.file, report::tensors(report), report::file_facts(report), a.force);
  print(
      a.model.json ? a.model.answer(report::to_json(report))
                   : text_of(report, a.top));
}

}  // namespace

Run add_edges(CLI::App& app) {
  const auto arguments = std::make_shared<Arguments>();
  auto& a = *arguments;
  app.description("Scores of every edge between two parts of a model");
  a.model.add_to(app);
  a.prompts.add_to(app);
  a.task.add_to(app);
  add_list(app, "--metric", a.metrics, spec::metric_grammar);
  app.add_option(
         "--method",
         a.method,
         "eap: the patched run's gradient; eap-ig: its mean on the line "
         "between the runs' embeddings; eap-ig-activations: of a layer's "
         "edges, "
         "between its own outputs; clean-corrupted: the mean of both "
         "runs'; exact: each edge is run; ifr: the share of each source in the "
         "clean run's stream, without --corrupt and --metric")
      ->capture_default_str();
  app.add_option("--steps", a.steps, "Points of a line")->capture_default_str();
  app.add_option(
         "--rule",
         a.rule,
         "Where they lie in their stretches: left, mid, right")
      ->capture_default_str();
  app.add_option(
         "--direction",
         a.direction,
         "denoise: clean values into the corrupted run; noise: "
         "corrupted values into the clean run")
      ->capture_default_str();
  app.add_flag(
      "--ungrouped",
      a.ungrouped,
      "A key and value input for each query head, not for each kv head");
  app.add_flag(
      "--by-position", a.by_position, "Keep positions apart, not added up");
  app.add_option(
      "--sample",
      a.sample,
      "Run this share of the edges too, drawn by --seed, and say how far the "
      "estimate is off, by how many layers the parts lie apart: 0.05");
  app.add_option("--top", a.top, "Number of edges to list")
      ->capture_default_str();
  app.add_flag(
      "--compare-cost",
      a.compare_cost,
      "Also time a plain forward pass of one prompt");
  app.add_option(
      "-o,--output", a.file, "Write all scores to this safetensors file");
  app.add_flag("--force", a.force, "Replace files that exist");
  app.footer(
      "Example:\n  mlxterp edges demo \\\n    --clean 'When Mary and John "
      "went to the store, John gave a drink to' \\\n    --corrupt 'When Mary "
      "and John went to the store, Mary gave a drink to' \\\n    --metric "
      "'logit_diff( Mary, John)' --method eap-ig");
  return [arguments] { run(*arguments); };
}

}  // namespace mlxterp::cli
