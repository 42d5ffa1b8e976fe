#include "mlxterp/report/heads.h"

#include <algorithm>
#include <cmath>

#include "core/fail.h"
#include "mlxterp/spec/choice.h"
#include "report/json.h"
#include "report/takeaway.h"

namespace mlxterp::report {

namespace {

constexpr const char* circuit_names[] = {"copying", "matching"};

Json json_of(const Head& head) {
  return {{"layer", head.layer}, {"head", head.head}};
}

Json json_of(const InductionAblation::Trial& trial) {
  Json out;
  out["heads"] = Json::array();
  for (const auto& head : trial.heads)
    out["heads"].push_back(json_of(head));
  out["loss"] = number(trial.loss);
  out["removed"] = number(trial.removed);
  return out;
}

Json json_of(const HeadGrid& grid, int top) {
  Json out;
  out["best"] = Json::array();
  for (const auto& head : grid.best(static_cast<size_t>(top))) {
    auto entry = json_of(head);
    entry["score"] = number(grid.at(head));
    out["best"].push_back(std::move(entry));
  }
  out["scores"] = Json::array();
  for (int i = 0; i < grid.layers; ++i) {
    auto row = Json::array();
    for (int j = 0; j < grid.heads; ++j)
      row.push_back(number(grid.at({i, j})));
    out["scores"].push_back(std::move(row));
  }
  return out;
}

}  // namespace

const HeadGrid& grid_of(const HeadReport& report, const std::string& kind) {
  std::string known;
  for (const auto& [name, grid] : report.grids) {
    if (name == kind) return grid;
    known += (known.empty() ? "" : ", ") + name;
  }
  fail(
      ErrorKind::unknown_name,
      "[heads] no kind is called '{}'; there are {}",
      printable(kind),
      known);
}

void add_circuits(HeadReport& report, HeadCircuits circuits) {
  report.grids.emplace_back(circuit_names[0], std::move(circuits.copying));
  report.grids.emplace_back(circuit_names[1], std::move(circuits.matching));
}

std::string to_json(const HeadReport& report) {
  Json out;
  out["model"] = report.model;
  out["task"] = report.task ? Json(*report.task) : Json();
  out["measure"] = name(report.measure);
  out["edits"] = report.edits;
  out["ids"] = report.prompts;
  out["period"] = report.repeated ? Json(report.repeated->period) : Json();
  out["kinds"] = Json::object();
  for (const auto& [kind, grid] : report.grids)
    out["kinds"][kind] = json_of(grid, report.top);
  out["ablation"] = nullptr;
  if (const auto& ablation = report.ablation) {
    auto& entry = out["ablation"];
    entry["value"] = spec::name(report.ablated_to);
    entry["first"] = number(ablation->first);
    entry["repeated"] = number(ablation->repeated);
    entry["best"] = json_of(ablation->best);
    entry["random"] = Json::array();
    for (const auto& trial : ablation->random)
      entry["random"].push_back(json_of(trial));
  }
  return text_of(out);
}

Heatmap heatmap(const HeadReport& report, const std::string& kind) {
  const auto& grid = grid_of(report, kind);
  Heatmap map{.kind = "Attention heads"};
  map.heading = fmt::format("{}: {}", report.model, kind);
  const bool of_weights = std::ranges::count(circuit_names, kind) > 0;
  map.about =
      of_weights
          ? "Sum of eigenvalues over sum of magnitudes: 1 all positive, -1 all "
            "negative."
          : fmt::format(
                "Attention to {} sources, measured as {}, on {}.",
                kind,
                name(report.measure),
                report.repeated
                    ? fmt::format(
                          "{} sequences of {} random tokens, {} times over",
                          report.repeated->sequences,
                          report.repeated->period,
                          report.repeated->repeats)
                : report.task ? fmt::format("prompts of {}", *report.task)
                              : "the prompt given");
  map.row_axis = "layer";
  map.column_axis = "head";
  for (int i = 0; i < grid.heads; ++i)
    map.columns.push_back(fmt::format("{}", i));
  for (int i = grid.layers; i-- > 0;) {
    map.rows.push_back(fmt::format("{}", i));
    for (int j = 0; j < grid.heads; ++j) {
      map.values.push_back(grid.at({i, j}));
      map.inert.push_back(std::isnan(grid.at({i, j})));
    }
  }
  if (std::ranges::find(map.inert, true) == map.inert.end()) map.inert = {};
  map.inert_name = "no score";
  map.inert_text =
      "No score: this layer has no attention, or no token has such a source.";
  map.facts = shown({{"model", report.model}, {"score", kind}});
  if (!of_weights) map.facts.emplace_back("measure", name(report.measure));
  for (auto& fact : shown({{"edits", report.edits}}))
    map.facts.push_back(std::move(fact));
  if (const auto best = grid.best(1); !best.empty())
    map.takeaway = fmt::format(
        "{} has the highest score for {}: {:.2f}.",
        name(best[0]),
        kind,
        grid.at(best[0]));
  return map;
}

}  // namespace mlxterp::report
