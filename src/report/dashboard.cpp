#include "mlxterp/report/dashboard.h"

#include "report/json.h"

namespace mlxterp::report {

namespace {

Json json_of(const FeatureHistogram& it) {
  return {
      {"from", number(it.from)},
      {"width", number(it.width)},
      {"counts", it.counts}};
}

Json json_of(
    const InterpretableModel& model,
    const std::vector<FeatureExample>& examples) {
  auto out = Json::array();
  for (const auto& it : examples)
    out.push_back(
        {{"activation", number(it.value)},
         {"document", it.document},
         {"window", it.window},
         {"position", it.position},
         {"at", it.at},
         {"tokens", json_of(named(model, it.ids))},
         {"activations", numbers(it.acts)}});
  return out;
}

Json json_of(
    const InterpretableModel& model, const std::vector<FeatureToken>& tokens) {
  auto out = Json::array();
  for (const auto& [id, logit] : tokens)
    out.push_back(
        {{"id", id}, {"text", label(model, id)}, {"logit", number(logit)}});
  return out;
}

Json json_of(
    const InterpretableModel& model,
    const FeatureDashboard& it,
    int64_t positions) {
  Json out;
  out["feature"] = it.feature;
  out["active"] = it.active;
  out["density"] =
      number(static_cast<double>(it.active) / static_cast<double>(positions));
  out["largest"] = number(it.largest);
  out["mean"] = number(it.mean);
  out["activations"] = json_of(it.activations);
  out["top"] = json_of(model, it.top);
  out["intervals"] = Json::array();
  for (const auto& interval : it.intervals)
    out["intervals"].push_back(
        {{"from", number(interval.from)},
         {"to", number(interval.to)},
         {"positions", interval.positions},
         {"examples", json_of(model, interval.examples)}});
  out["promoted"] = json_of(model, it.promoted);
  out["suppressed"] = json_of(model, it.suppressed);
  out["logits"] = it.logits.counts.empty() ? Json() : json_of(it.logits);
  out["similar"] = Json::array();
  for (const auto& [feature, cosine] : it.similar)
    out["similar"].push_back(
        {{"feature", feature}, {"cosine", number(cosine)}});
  out["correlated"] = Json::array();
  for (const auto& other : it.correlated)
    out["correlated"].push_back(
        {{"feature", other.feature},
         {"pearson", number(other.pearson)},
         {"cosine", number(other.cosine)},
         {"both", other.both}});
  return out;
}

}  // namespace

std::string to_json(
    const InterpretableModel& model, const DashboardReport& report) {
  const auto& it = report.result;
  Json out;
  out["model"] = report.model;
  out["sae"] = report.sae;
  out["edits"] = report.edits;
  out["text"] = report.text;
  out["site"] = it.sites.writes;
  out["reads"] = it.sites.reads;
  out["d_sae"] = it.d_sae;
  out["tokens"] = it.tokens;
  out["windows"] = it.windows;
  out["length"] = it.length;
  out["seed"] = it.seed;
  out["features"] = Json::array();
  for (const auto& feature : it.features)
    out["features"].push_back(json_of(model, feature, it.tokens));
  return text_of(out);
}

}  // namespace mlxterp::report
