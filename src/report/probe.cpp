#include "mlxterp/report/probe.h"

#include <cmath>

#include "mlxterp/spec/choice.h"
#include "report/json.h"

namespace mlxterp::report {

namespace {

Json json_of(const std::optional<ProbeScore>& score, ProbeKind kind) {
  if (!score) return {};
  Json out;
  out["mean"] = number(score->mean);
  out["folds"] = Json::array();
  for (const double it : score->folds)
    out["folds"].push_back(number(it));
  out["auc"] = kind == ProbeKind::logistic ? number(score->auc) : Json();
  return out;
}

}  // namespace

double probability(float log_odds) {
  return 1 / (1 + std::exp(-static_cast<double>(log_odds)));
}

std::string to_json(const ProbeTrainReport& report) {
  const auto& first = report.probes.front();
  const auto kind = report.options.kind;
  Json out;
  out["model"] = report.model;
  out["edits"] = report.edits;
  out["data"] = report.data;
  out["kind"] = spec::name(kind);
  out["classes"] = first.probe.classes;
  out["positions"] = report.positions;
  out["l2"] = number(report.options.l2);
  out["k"] = report.options.k;
  out["rows"] = first.rows;
  out["groups"] = first.groups;
  out["baseline"] = number(first.baseline);
  out["random_k"] = first.random_k;
  out["sites"] = Json::array();
  for (const auto& it : report.probes)
    out["sites"].push_back(
        {{"site", it.probe.site},
         {"coordinates", it.probe.coordinates},
         {"held_out", json_of(it.held_out, kind)},
         {"shuffled_labels", json_of(it.shuffled_labels, kind)},
         {"random_coordinates", json_of(it.random_coordinates, kind)}});
  out["output"] = report.output ? Json(*report.output) : Json();
  out["saved"] = report.output ? Json(report.saved) : Json();
  return text_of(out);
}

std::string to_json(const ProbeApplyReport& report) {
  Json out;
  out["model"] = report.model;
  out["edits"] = report.edits;
  out["probe"] = report.file;
  out["site"] = report.probe.site;
  out["kind"] = spec::name(report.probe.kind);
  out["classes"] = report.probe.classes;
  out["tokens"] = json_of(report.tokens);
  out["values"] = numbers(report.values);
  out["probabilities"] = Json();
  if (report.probe.kind == ProbeKind::logistic) {
    out["probabilities"] = Json::array();
    for (const float it : report.values)
      out["probabilities"].push_back(number(probability(it)));
  }
  out["warnings"] = report.warnings;
  return text_of(out);
}

}  // namespace mlxterp::report
