#include "mlxterp/report/edges.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "mlxterp/spec/choice.h"
#include "report/sweep_json.h"

namespace mx = mlx::core;

namespace mlxterp::report {

namespace {

// What the two runs measure, as of a sweep.
Sweep runs_of(const EdgeScores& found) {
  Sweep out;
  out.clean = found.clean;
  out.corrupt = found.corrupt;
  out.direction = found.direction;
  out.pairs = found.pairs;
  return out;
}

}  // namespace

EdgesReport edges_report(
    const InterpretableModel& model,
    const EdgeOptions& options,
    EdgeScores found,
    const SweepStyle& style) {
  EdgesReport out;
  const bool line = options.method == EdgeMethod::eap_ig ||
                    options.method == EdgeMethod::eap_ig_activations;
  const bool flow = options.method == EdgeMethod::ifr;
  out.facts = {
      {"model", style.model},
      {"task", style.task ? Value(*style.task) : Value(nullptr)},
      {"method", std::string(spec::name(options.method))},
      {"direction",
       flow ? Value(nullptr)
            : Value(std::string(spec::name(options.direction)))},
      {"steps", line ? Value(int64_t{options.steps}) : Value(nullptr)},
      {"rule",
       line ? Value(std::string(spec::name(options.rule))) : Value(nullptr)},
      {"ungrouped", options.ungrouped},
      {"by_position", options.by_position},
      {"sample", options.sample}};
  out.tokens = named(model, found.ids);
  out.metric = options.metric.name;
  out.found = std::move(found);
  out.warnings = style.warnings;
  if (flow) return out;
  for (auto& sentence : run_warnings(
           options.metric,
           out.metric,
           runs_of(out.found),
           style.task.has_value()))
    out.warnings.push_back(std::move(sentence));
  return out;
}

std::string to_json(const EdgesReport& report) {
  const auto& found = report.found;
  const auto sources = found.sources.size();
  const auto destinations = found.destinations.size();
  Json out;
  for (const auto& [key, value] : report.facts)
    out[key] = json_of(value);
  out["warnings"] = report.warnings;
  out["tokens"] = json_of(report.tokens);
  out["metric"] = nullptr;
  if (!report.metric.empty())
    out["metric"] = json_of_metric(report.metric, runs_of(found));
  out["pairs"] = found.pairs;
  out["sources"] = sources;
  out["destinations"] = destinations;
  auto& edges = out["edges"] = Json::array();
  for (size_t i = 0; i < found.scores.size(); ++i) {
    if (std::isnan(found.scores[i])) continue;
    Json edge = {
        {"from", found.sources[i / destinations % sources].name},
        {"to", found.destinations[i % destinations].name},
        {"score", number(found.scores[i])},
        {"spread", number(found.spread[i])}};
    if (!found.exact.empty()) edge["exact"] = number(found.exact[i]);
    if (found.positions > 0) edge["pos"] = i / destinations / sources;
    edges.push_back(std::move(edge));
  }
  auto& errors = out["errors"] = Json::array();
  for (const auto& it : found.errors)
    errors.push_back(
        {{"distance", it.distance},
         {"edges", it.edges},
         {"mean", number(it.mean)},
         {"rms", number(it.rms)},
         {"within_68", number(it.within_68)},
         {"within_90", number(it.within_90)}});
  out["coverage"] = nullptr;
  if (!found.errors.empty())
    out["coverage"] = {
        {"within_68", number(found.coverage.within_68)},
        {"within_90", number(found.coverage.within_90)},
        {"strong_90", number(found.coverage.strong_90)}};
  const auto seconds = [](const std::optional<double>& value) {
    return value ? number(*value) : Json();
  };
  out["seconds"] = {
      {"edges", seconds(report.seconds)},
      {"forward", seconds(report.forward_seconds)}};
  return text_of(out);
}

std::string runs_text(const EdgesReport& report) {
  const auto& found = report.found;
  if (!report.metric.empty()) return runs_text(report.metric, runs_of(found));
  return found.pairs == 1
             ? "information flow routes"
             : fmt::format(
                   "information flow routes (means of {} runs)", found.pairs);
}

std::vector<std::pair<std::string, mx::array>> tensors(
    const EdgesReport& report) {
  const auto& found = report.found;
  mx::Shape shape = {
      static_cast<int>(found.sources.size()),
      static_cast<int>(found.destinations.size())};
  if (found.positions > 0) shape.insert(shape.begin(), found.positions);
  std::vector<std::pair<std::string, mx::array>> out = {
      {"scores", mx::array(found.scores.data(), shape)},
      {"spread", mx::array(found.spread.data(), shape)}};
  if (!found.exact.empty())
    out.emplace_back("exact", mx::array(found.exact.data(), shape));
  return out;
}

Facts file_facts(const EdgesReport& report) {
  auto out = report.facts;
  std::vector<std::string> sources, destinations;
  for (const auto& source : report.found.sources)
    sources.push_back(source.name);
  for (const auto& destination : report.found.destinations)
    destinations.push_back(destination.name);
  out.emplace_back("sources", sources);
  out.emplace_back("destinations", destinations);
  out.emplace_back("metric", report.metric);
  out.emplace_back("ids", report.found.ids);
  return out;
}

}  // namespace mlxterp::report
