#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/fail.h"
#include "mlxterp/report/sweep.h"
#include "report/takeaway.h"

namespace mlxterp::report {

namespace {

using mlxterp::name;

// What is shown of an axis, in the order shown.
struct Shown {
  Axis axis;
  size_t stride = 1;          // between its values, in flat cells
  std::vector<size_t> order;  // of its values
  const Sweep::Range* range = nullptr;
};

// Axes from the outermost row to the column. Layers go up, as they do in the
// model; where they would lie across two axes' picture they are turned.
std::vector<Shown> shown_axes(const Sweep& sweep) {
  std::vector<Shown> out;
  size_t stride = 1;
  for (size_t a = sweep.axes.size(); a-- > 0;) {
    const auto& range = sweep.axes[a];
    Shown one{range.axis, stride, {}, &range};
    one.order.resize(range.values.size());
    std::iota(one.order.begin(), one.order.end(), size_t{0});
    stride *= range.values.size();
    out.insert(out.begin(), std::move(one));
  }
  if (out.size() == 2 && out[1].axis == Axis::layer) std::swap(out[0], out[1]);
  for (size_t a = 0; a < out.size(); ++a)
    if (out[a].axis == Axis::layer && (a == 0 || a + 1 < out.size()))
      std::ranges::reverse(out[a].order);
  return out;
}

// Names of the rows and, of each, its place in the flat cells.
using Rows = std::vector<std::pair<std::string, size_t>>;

Rows times(const Rows& rows, const Shown& axis, const SweepReport& report) {
  Rows out;
  for (const auto& [row, at] : rows)
    for (const size_t i : axis.order) {
      const int value = axis.range->values[i];
      auto label = fmt::format("{}", value);
      if (axis.axis == Axis::position)
        label = fmt::format(
            "{} {}", label, report.tokens[static_cast<size_t>(value)].text);
      out.emplace_back(
          row.empty() ? label : fmt::format("{}.{}", row, label),
          at + i * axis.stride);
    }
  return out;
}

// What is compared, the changed run first; what the cells are beside it.
void add_details(
    Heatmap& map, const SweepReport& report, const std::vector<size_t>& cells) {
  const auto& sweep = report.sweep;
  const bool denoise = sweep.direction == Direction::denoise;
  const float base = denoise ? sweep.corrupt : sweep.clean;
  if (std::isnan(sweep.corrupt))
    map.bounds = {{"unchanged run", sweep.clean}};
  else if (denoise)
    map.bounds = {{"corrupted", sweep.corrupt}, {"clean", sweep.clean}};
  else
    map.bounds = {{"clean", sweep.clean}, {"corrupted", sweep.corrupt}};
  Heatmap::Detail metric{report.metric}, change{"change"}, spread{"spread"};
  for (const size_t cell : cells) {
    metric.values.push_back(sweep.metric[cell]);
    change.values.push_back(sweep.metric[cell] - base);
    spread.values.push_back(sweep.spread[cell]);
    if (!sweep.inert.empty()) map.inert.push_back(sweep.inert[cell]);
  }
  map.details = {std::move(metric), std::move(change)};
  if (sweep.pairs > 1) map.details.push_back(std::move(spread));
  // Values that are the metric itself are told apart from the changed run's.
  if (report.values == sweep.metric && !report.percent) map.neutral = base;
}

}  // namespace

std::vector<PromptLine> pair_lines(
    const InterpretableModel& model,
    const Inputs& clean,
    const Inputs& corrupt) {
  const auto all = std::pair{model.token_ids(clean), model.token_ids(corrupt)};
  if (all.first.empty() || all.second.empty()) return {};
  const auto &a = all.first[0], &b = all.second[0];
  std::vector<PromptLine> out = {
      {"clean", labels(model, a)}, {"corrupted", labels(model, b)}};
  const size_t both = std::min(a.size(), b.size());
  size_t begin = 0, end = 0;
  while (begin < both && a[begin] == b[begin])
    ++begin;
  while (begin + end < both && a[a.size() - 1 - end] == b[b.size() - 1 - end])
    ++end;
  for (auto& line : out)
    for (size_t p = begin; p + end < line.tokens.size(); ++p)
      if (a.size() != b.size() || a[p] != b[p]) line.marked.push_back(p);
  return out;
}

Heatmap heatmap(const SweepReport& report) {
  const auto& sweep = report.sweep;
  Heatmap map{.kind = report.kind, .about = report.about};
  for (const auto& each : report.tokens)
    map.heading += each.text;
  map.prompts = report.prompts;
  map.percent = report.percent;
  const auto axes = shown_axes(sweep);
  Rows rows = {{"", 0}}, columns = {{"effect", 0}};
  for (size_t a = 0; a < axes.size(); ++a) {
    const bool across = a > 0 && a + 1 == axes.size();
    auto& axis = across ? map.column_axis : map.row_axis;
    if (!axis.empty()) axis += '.';
    axis += name(axes[a].axis);
    if (!across) {
      rows = times(rows, axes[a], report);
      continue;
    }
    columns.clear();
    for (const size_t i : axes[a].order) {
      const int value = axes[a].range->values[i];
      columns.emplace_back(fmt::format("{}", value), i * axes[a].stride);
      if (axes[a].axis == Axis::position)
        map.notes.push_back(report.tokens[static_cast<size_t>(value)].text);
    }
  }
  for (const auto& [text, at] : columns)
    map.columns.push_back(text);
  std::vector<size_t> cells;
  for (const auto& [text, at] : rows) {
    map.rows.push_back(text);
    for (const auto& column : columns)
      cells.push_back(at + column.second);
  }
  for (const size_t cell : cells)
    map.values.push_back(report.values[cell]);
  add_details(map, report, cells);
  map.facts = shown(report.facts);
  map.warnings = report.warnings;
  const bool one_run = std::isnan(sweep.corrupt);
  const bool sign = sweep.clean < 0 || sweep.corrupt < 0;
  const auto clean = written(sweep.clean, sign);
  map.facts.insert(
      map.facts.begin() +
          std::min<long>(1, static_cast<long>(map.facts.size())),
      {"metric",
       one_run ? fmt::format("{}: {}, unchanged", report.metric, clean)
               : fmt::format(
                     "{}: clean {}, corrupted {}",
                     report.metric,
                     clean,
                     written(sweep.corrupt, sign))});
  // Samples of noise are said to be what they are.
  std::erase_if(map.facts, [](const auto& fact) {
    return fact.first == "subject positions";
  });
  const bool sampled = std::ranges::count_if(map.facts, [](const auto& fact) {
                         return fact.first == "samples";
                       }) > 0;
  if (sweep.pairs > 1 && !sampled)
    map.facts.emplace_back(
        one_run ? "prompts" : "pairs", fmt::format("{}", sweep.pairs));
  map.takeaway = takeaway(map);
  return map;
}

}  // namespace mlxterp::report
