#include "sweep.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "mlxterp/view/heatmap.h"
#include "progress.h"

namespace mlxterp::cli {

namespace {

constexpr double megabyte = 1e6;
constexpr double most_megabytes = 1e9;  // a slip of the finger

std::string cost_text(const report::SweepReport& report) {
  const auto cells =
      static_cast<double>(report.sweep.cells() * report.sweep.pairs);
  auto text = fmt::format(
      "{:.0f} cell{} in {:.3g} s",
      cells,
      cells == 1 ? "" : "s",
      *report.seconds);
  if (const auto forward = report.forward_seconds)
    text += fmt::format(
        "; one forward pass takes {:.3g} s, so a cell costs {:.2g}% of one",
        *forward,
        100 * *report.seconds / *forward / cells);
  return text + "\n";
}

}  // namespace

void SweepArguments::add_rest(CLI::App& app, const std::string& raw_help) {
  app.add_flag("--raw", raw, raw_help);
  app.add_option("--memory", memory, "Most memory to use at once, in MB");
  app.add_flag(
      "--compare-cost",
      compare_cost,
      "Also time a plain forward pass and report the cost per cell");
  output.add_to(app);
}

void SweepArguments::check() const {
  model.check();
  static_cast<void>(bytes());
  output.check();
}

size_t SweepArguments::bytes() const {
  if (!(memory >= 0 && memory <= most_megabytes))
    usage(fmt::format(
        "--memory {} is not a number of megabytes from 0 to {:.0e}",
        memory,
        most_megabytes));
  return static_cast<size_t>(memory * megabyte);
}

report::SweepStyle SweepArguments::style() const {
  return {
      .model = model.model,
      .raw = raw,
      .edits = model.edits,
      .raw_option = "--raw"};
}

void run_sweep(
    const SweepArguments& arguments,
    const InterpretableModel& model,
    const report::SweepStyle& style,
    const std::function<report::SweepReport()>& work) {
  report::SweepReport report;
  const double seconds = seconds_of([&] { report = work(); });
  end_progress();
  report.seconds = seconds;
  tell_of_runs(style, report.warnings);
  if (arguments.compare_cost)
    report.forward_seconds = forward_seconds(model, report.sweep.ids);
  const auto map = report::heatmap(report);
  const auto& output = arguments.output;
  auto facts = report.facts;
  facts.emplace_back("ids", report.sweep.ids);
  facts.emplace_back("metric", report.metric);
  output.write({{"effect", report::grid(report.sweep, report.values)}}, facts);
  output.write(map);
  if (arguments.model.json)
    print(arguments.model.answer(report::to_json(report)));
  else
    print(
        runs_line(report.metric, report.sweep) + grid_text(map) +
        cost_text(report));
}

std::string grid_text(const report::Heatmap& map) {
  const auto terminal = view::terminal(STDOUT_FILENO);
  auto text = view::heatmap_text(map, terminal) + "\n";
  if (const auto largest = view::largest_text(map, terminal); !largest.empty())
    text += largest + "\n";
  return text;
}

std::string runs_line(const std::string& metric, const Sweep& sweep) {
  return view::escape(report::runs_text(metric, sweep)) + "\n";
}

void tell_of_runs(
    const report::SweepStyle& style, const std::vector<std::string>& all) {
  for (size_t i = style.warnings.size(); i < all.size(); ++i)
    warn(all[i]);
}

double seconds_of(const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double forward_seconds(
    const InterpretableModel& model, const std::vector<int>& ids) {
  std::vector<double> all;
  for (int i = 0; i < 5; ++i)
    all.push_back(seconds_of([&] { model(ids).eval(); }));
  std::ranges::nth_element(all, all.begin() + 2);
  return all[2];
}

}  // namespace mlxterp::cli
