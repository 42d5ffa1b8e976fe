#include "mlxterp/report/attribution.h"

#include <utility>

#include "core/fail.h"
#include "mlxterp/spec/choice.h"
#include "report/sweep_json.h"
#include "report/takeaway.h"

namespace mlxterp::report {

namespace {

std::string about(const AttributionReport& report, const std::string& sites) {
  std::string how;
  if (report.method != AttributionMethod::atp)
    how = fmt::format(
        " by {}{}",
        spec::name(report.method),
        gives_sizes(report.method) ? ", as sizes without a sign" : "");
  if (report.rule != LinearRule::full)
    how += fmt::format(" under the rule {}", name(report.rule));
  return fmt::format("Estimated from gradients{}: ", how) +
         about_patching(
             report.metric, sites, report.sites.front().sweep, report.raw);
}

Json json_of(const SiteReport& site) {
  Json out;
  out["site"] = site.site;
  put_cells(out, site.sweep, site.values);
  out["exact"] = nullptr;
  if (!site.exact) return out;
  auto& exact = out["exact"];
  exact["effect"] = numbers(site.exact_values);
  exact["pearson"] = number(site.agreement.pearson);
  exact["spearman"] = number(site.agreement.spearman);
  exact["worst"] = Json::array();
  for (const auto& cell : site.agreement.worst)
    exact["worst"].push_back(
        {{"cell", cell.cell},
         {"exact", number(cell.exact)},
         {"estimated", number(cell.approximate)}});
  exact["seconds"] = site.exact_seconds;
  return out;
}

}  // namespace

AttributionReport attribution_report(
    const InterpretableModel& model,
    const AttributeOptions& options,
    std::vector<Attribution> found,
    const SweepStyle& style) {
  AttributionReport out;
  out.facts = {
      {"model", style.model},
      {"task", style.task ? Value(*style.task) : Value(nullptr)},
      {"direction", std::string(spec::name(options.direction))},
      {"method", std::string(spec::name(options.method))},
      {"rule", name(options.rule)},
      {"edits", style.edits},
      {"raw", style.raw},
      {"steps", int64_t{options.steps}}};
  out.tokens = named(model, found.front().sweep.ids);
  out.prompts = pair_lines(model, options.clean, options.corrupt);
  out.metric = options.metric.name;
  out.method = options.method;
  out.rule = options.rule;
  out.raw = style.raw;
  out.warnings = style.warnings;
  for (auto& sentence : run_warnings(
           options.metric,
           out.metric,
           found.front().sweep,
           style.task.has_value()))
    out.warnings.push_back(std::move(sentence));
  for (auto& [site, sweep] : found) {
    auto& entry = out.sites.emplace_back();
    entry.site = site;
    entry.values = patching_values(sweep, style);
    entry.sweep = std::move(sweep);
  }
  return out;
}

void add_exact(
    AttributionReport& report, size_t site, Sweep exact, double seconds) {
  auto& entry = report.sites.at(site);
  entry.agreement = compare(exact, entry.sweep, 5, gives_sizes(report.method));
  entry.exact_values = patching_values(exact, {.raw = report.raw});
  entry.exact = std::move(exact);
  entry.exact_seconds = seconds;
}

std::string to_json(const AttributionReport& report) {
  const auto& first = report.sites.front().sweep;
  Json out;
  for (const auto& [key, value] : report.facts)
    out[key] = json_of(value);
  out["warnings"] = report.warnings;
  out["tokens"] = json_of(report.tokens);
  out["metric"] = json_of_metric(report.metric, first);
  out["pairs"] = first.pairs;
  out["sites"] = Json::array();
  for (const auto& site : report.sites)
    out["sites"].push_back(json_of(site));
  const auto seconds = [](const std::optional<double>& value) {
    return value ? number(*value) : Json();
  };
  out["seconds"] = {
      {"attribute", seconds(report.seconds)},
      {"forward", seconds(report.forward_seconds)}};
  return text_of(out);
}

Heatmap heatmap(const AttributionReport& report, size_t site) {
  const auto& entry = report.sites.at(site);
  auto facts = report.facts;
  facts.insert(facts.begin() + 1, {"site", entry.site});
  SweepReport one;
  one.kind = "Attribution patching";
  one.about = about(report, entry.site);
  one.facts = std::move(facts);
  one.tokens = report.tokens;
  one.prompts = report.prompts;
  one.warnings = report.warnings;
  one.metric = report.metric;
  one.sweep = entry.sweep;
  one.values = entry.values;
  one.percent = !report.raw;
  auto map = heatmap(one);
  for (auto& detail : map.details)
    if (detail.name != "spread")
      detail.name = fmt::format("estimated {}", detail.name);
  map.takeaway = takeaway(map);
  if (entry.exact) {
    one.values = entry.exact_values;
    map.details.push_back({"exact", heatmap(one).values, map.percent});
  }
  return map;
}

JointHeatmap joint_heatmap(const AttributionReport& report) {
  auto map = heatmap(report, 0);
  if (report.sites.size() == 1) return {std::move(map), {}};
  JointHeatmap out{std::move(map), {}};
  std::vector<std::string> sites;
  const auto columns = out.map.columns;
  out.map.row_axis = "site." + out.map.row_axis;
  out.map.rows.clear();
  out.map.values.clear();
  out.map.inert.clear();
  for (auto& detail : out.map.details)
    detail.values.clear();
  const auto append = [](std::vector<float>& to, const auto& more) {
    to.insert(to.end(), more.begin(), more.end());
  };
  for (size_t i = 0; i < report.sites.size(); ++i) {
    const auto own = heatmap(report, i);
    const auto& site = report.sites[i].site;
    if (own.columns != columns) {
      out.left_out.push_back(site);
      continue;
    }
    sites.push_back(site);
    for (const auto& row : own.rows)
      out.map.rows.push_back(fmt::format("{}.{}", site, row));
    append(out.map.values, own.values);
    for (size_t d = 0; d < out.map.details.size(); ++d)
      append(out.map.details[d].values, own.details.at(d).values);
  }
  const auto shown = fmt::format("{}", fmt::join(sites, ", "));
  out.map.about = about(report, shown);
  for (auto& [name, value] : out.map.facts)
    if (name == "site") value = shown;
  out.map.takeaway = takeaway(out.map);
  return out;
}

}  // namespace mlxterp::report
