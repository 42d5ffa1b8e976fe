#include "mlxterp/report/logit_attribution.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "core/fail.h"
#include "mlxterp/spec/choice.h"
#include "report/json.h"
#include "report/takeaway.h"

namespace mx = mlx::core;

namespace mlxterp::report {

namespace {

using Kind = LogitPart::Kind;

}  // namespace

LogitAttributionReport logit_attribution_report(
    const InterpretableModel& model,
    std::string model_name,
    std::vector<std::string> metrics,
    Unit unit,
    LogitAttribution result) {
  auto tokens = named(model, result.ids);
  return {
      .model = std::move(model_name),
      .tokens = std::move(tokens),
      .metrics = std::move(metrics),
      .unit = unit,
      .result = std::move(result)};
}

std::string to_json(const LogitAttributionReport& report) {
  const auto& dla = report.result;
  Json out;
  out["model"] = report.model;
  out["task"] = report.task ? Json(*report.task) : Json();
  out["tokens"] = json_of(report.tokens);
  out["edits"] = report.edits;
  out["warnings"] = report.warnings;
  out["prompts"] = dla.prompts;
  out["metric"] = report.metrics;
  out["unit"] = spec::name(report.unit);
  out["sum"] = number(dla.sum);
  out["model_logit"] = number(dla.model);
  out["softcap"] = dla.softcap > 0 ? number(dla.softcap) : Json();
  out["parts"] = Json::array();
  for (const auto& part : dla.parts)
    out["parts"].push_back(
        {{"name", part.name()},
         {"kind", name(part.kind)},
         {"layer", part.layer < 0 ? Json() : Json(part.layer)},
         {"unit", part.unit < 0 ? Json() : Json(part.unit)},
         {"value", number(part.value)},
         {"spread", number(part.spread)}});
  out["accumulated"] = numbers(dla.accumulated);
  return text_of(out);
}

Heatmap heatmap(const LogitAttributionReport& report) {
  const auto& dla = report.result;
  const auto metric = fmt::format("{}", fmt::join(report.metrics, ", "));
  const bool heads = report.unit == Unit::head;
  Heatmap map{.kind = "Direct logit attribution"};
  PromptLine prompt{.name = "prompt"};
  for (const auto& token : report.tokens) {
    map.heading += token.text;
    prompt.tokens.push_back(token.text);
  }
  map.prompts = {std::move(prompt)};
  map.about = fmt::format(
      "Contributions of the components to {}{}; they sum to {:+.4f}.",
      metric,
      dla.prompts > 1 ? fmt::format(", mean of {} prompts", dla.prompts) : "",
      dla.sum);
  map.facts = shown(
      {{"model", report.model}, {"metric", metric}, {"edits", report.edits}});
  map.warnings = report.warnings;
  if (dla.prompts > 1)
    map.facts.emplace_back("prompts", fmt::format("{}", dla.prompts));
  map.row_axis = "layer";
  map.column_axis = heads ? "head" : "part";
  // What layers add, of the kinds that there are.
  std::vector<Kind> kinds;
  for (const auto kind : {Kind::attn_out, Kind::mlp_out, Kind::ple_out})
    if (!heads && std::ranges::find(dla.parts, kind, &LogitPart::kind) !=
                      dla.parts.end()) {
      kinds.push_back(kind);
      map.columns.emplace_back(name(kind));
    }
  std::vector<std::vector<float>> rows(static_cast<size_t>(dla.layers));
  for (const auto& part : dla.parts) {
    const auto column = std::ranges::find(kinds, part.kind);
    if (heads ? part.kind != Kind::head : column == kinds.end()) continue;
    auto& row = rows[static_cast<size_t>(part.layer)];
    if (heads) {
      if (row.size() == map.columns.size())
        map.columns.push_back(fmt::format("{}", part.unit));
      row.push_back(part.value);
      continue;
    }
    row.resize(kinds.size(), NAN);  // a layer may lack a kind
    row[static_cast<size_t>(column - kinds.begin())] = part.value;
  }
  for (int i = dla.layers; i-- > 0;) {
    const auto& row = rows[static_cast<size_t>(i)];
    if (row.empty()) continue;  // without attention
    map.rows.push_back(fmt::format("{}", i));
    map.values.insert(map.values.end(), row.begin(), row.end());
  }
  if (const auto best = map.largest(1); !best.empty()) {
    const auto columns = map.columns.size();
    const size_t row = best[0] / columns, column = best[0] % columns;
    map.takeaway = fmt::format(
        "{} contributes most: {:+.3g} of the sum {:+.3g}.",
        heads
            ? map.place(row, column)
            : fmt::format("{} of layer {}", map.columns[column], map.rows[row]),
        map.values[best[0]],
        dla.sum);
  }
  return map;
}

std::vector<std::pair<std::string, mx::array>> tensors(
    const LogitAttribution& dla) {
  std::map<std::string, std::vector<const LogitPart*>> kinds;
  for (const auto& part : dla.parts)
    kinds[name(part.kind)].push_back(&part);
  std::vector<std::pair<std::string, mx::array>> out;
  for (const auto& [kind, parts] : kinds) {
    std::vector<float> values;
    std::map<int, int> rows;  // of each layer that has some
    int across = 0;
    for (const auto* part : parts) {
      values.push_back(part->value);
      rows.try_emplace(part->layer, static_cast<int>(rows.size()));
      across = std::max(across, part->unit + 1);
    }
    const auto n = static_cast<int>(rows.size());
    if (across > 0) {
      const auto width = static_cast<size_t>(across);
      values.assign(rows.size() * width, NAN);
      for (const auto* part : parts)
        values
            [static_cast<size_t>(rows.at(part->layer)) * width +
             static_cast<size_t>(part->unit)] = part->value;
    }
    const auto count = static_cast<int>(values.size());
    out.emplace_back(
        kind,
        mx::array(
            values.data(),
            across > 0 ? mx::Shape{n, across} : mx::Shape{count}));
  }
  out.emplace_back(
      "accumulated", mx::array(dla.accumulated.data(), {dla.layers + 1}));
  return out;
}

}  // namespace mlxterp::report
