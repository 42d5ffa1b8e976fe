#include "mlxterp/report/logit_attribution.h"

#include <algorithm>
#include <map>

#include "core/fail.h"
#include "mlxterp/spec/choice.h"
#include "report/json.h"

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
  return {
      .model = std::move(model_name),
      .tokens = named(model, result.ids),
      .metrics = std::move(metrics),
      .unit = unit,
      .result = std::move(result)};
}

std::string to_json(const LogitAttributionReport& report) {
  const auto& dla = report.result;
  Json out;
  out["model"] = report.model;
  out["tokens"] = json_of(report.tokens);
  out["edits"] = report.edits;
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
  Heatmap map{.kind = "Direct logit attribution"};
  for (const auto& token : report.tokens)
    map.heading += token.text;
  map.about = fmt::format(
      "Contributions of the components to {}{}; they sum to {:+.4f}.",
      fmt::join(report.metrics, ", "),
      dla.prompts > 1 ? fmt::format(", mean of {} prompts", dla.prompts) : "",
      dla.sum);
  map.row_axis = "layer";
  for (int i = 0; i < dla.layers; ++i)
    map.rows.push_back(fmt::format("{}", i));
  if (report.unit == Unit::head) {
    map.column_axis = "head";
    for (const auto& part : dla.parts) {
      if (part.kind != Kind::head) continue;
      if (part.layer == 0) map.columns.push_back(fmt::format("{}", part.unit));
      map.values.push_back(part.value);
    }
    return map;
  }
  map.column_axis = "part";
  map.columns = {"attn_out", "mlp_out"};
  map.values.resize(2 * static_cast<size_t>(dla.layers));
  for (const auto& part : dla.parts)
    if (part.kind == Kind::attn_out || part.kind == Kind::mlp_out)
      map.values
          [2 * static_cast<size_t>(part.layer) + (part.kind == Kind::mlp_out)] =
          part.value;
  return map;
}

std::vector<std::pair<std::string, mx::array>> tensors(
    const LogitAttribution& dla) {
  std::map<std::string, std::vector<float>> values;
  std::map<std::string, int> units;
  for (const auto& part : dla.parts) {
    const std::string kind = name(part.kind);
    values[kind].push_back(part.value);
    units[kind] = std::max(units[kind], part.unit + 1);
  }
  std::vector<std::pair<std::string, mx::array>> out;
  for (const auto& [kind, all] : values) {
    const auto n = static_cast<int>(all.size());
    const int across = units[kind];
    out.emplace_back(
        kind,
        mx::array(
            all.data(),
            across > 0 ? mx::Shape{n / across, across} : mx::Shape{n}));
  }
  out.emplace_back(
      "accumulated", mx::array(dla.accumulated.data(), {dla.layers + 1}));
  return out;
}

}  // namespace mlxterp::report
