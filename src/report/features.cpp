#include "mlxterp/report/features.h"

#include "report/json.h"

namespace mlxterp::report {

namespace {

Json tokens_of(
    const InterpretableModel& model, const std::vector<FeatureToken>& tokens) {
  auto out = Json::array();
  for (const auto& [id, logit] : tokens) {
    auto entry = json_of(NamedToken{id, label(model, id)});
    entry["logit"] = number(logit);
    out.push_back(std::move(entry));
  }
  return out;
}

Json fit_of(const std::optional<SaeFit>& fit) {
  if (!fit) return {};
  return {
      {"explained_variance", number(fit->explained_variance)},
      {"fvu", number(fit->fvu)},
      {"l0", number(fit->l0)},
      {"positions", fit->rows}};
}

Json text_of(const InterpretableModel& model, const FeatureReport& report) {
  if (!report.contexts) return {};
  Json out;
  out["file"] = *report.text;
  out["tokens"] = report.contexts->tokens;
  out["windows"] = report.contexts->windows;
  out["features"] = Json::array();
  for (const auto& of : report.contexts->features) {
    Json one;
    one["feature"] = of.feature;
    one["active"] = of.active;
    one["contexts"] = Json::array();
    for (const auto& context : of.top)
      one["contexts"].push_back(
          {{"activation", number(context.value)},
           {"document", context.document},
           {"position", context.position},
           {"at", context.at},
           {"tokens", json_of(named(model, context.ids))}});
    out["features"].push_back(std::move(one));
  }
  return out;
}

}  // namespace

std::string to_json(
    const InterpretableModel& model, const FeatureReport& report) {
  const auto& it = report.reading;
  Json out;
  out["model"] = report.model;
  out["sae"] = report.sae;
  out["edits"] = report.edits;
  out["site"] = it.sites.writes;
  out["reads"] = it.sites.reads;
  out["d_sae"] = it.d_sae;
  out["tokens"] = json_of(named(model, it.ids));
  out["fit"] = fit_of(it.fit);
  out["positions"] = Json::array();
  for (const auto& position : it.positions) {
    Json one;
    one["active"] = position.active < 0 ? Json() : Json(position.active);
    one["top"] = Json::array();
    for (const auto& [feature, value] : position.top)
      one["top"].push_back(
          {{"feature", feature}, {"activation", number(value)}});
    out["positions"].push_back(std::move(one));
  }
  out["logits"] = Json::array();
  for (const auto& of : it.logits)
    out["logits"].push_back(
        {{"feature", of.feature},
         {"promoted", tokens_of(model, of.promoted)},
         {"suppressed", tokens_of(model, of.suppressed)}});
  out["text"] = text_of(model, report);
  return report::text_of(out);
}

std::string to_json(const SaeEvalReport& report) {
  const auto& it = report.result;
  Json out;
  out["model"] = report.model;
  out["sae"] = report.sae;
  out["edits"] = report.edits;
  out["text"] = report.text;
  out["site"] = it.sites.writes;
  out["reads"] = it.sites.reads;
  out["tokens"] = it.tokens;
  out["windows"] = it.windows;
  out["predicted"] = it.predicted;
  for (const auto& [name, value] :
       {std::pair("explained_variance", it.explained_variance),
        {"fvu", it.fvu},
        {"mse", it.mse},
        {"cosine", it.cosine},
        {"l2_in", it.l2_in},
        {"l2_out", it.l2_out},
        {"l2_ratio", it.l2_ratio},
        {"relative_bias", it.relative_bias},
        {"l0", it.l0},
        {"l1", it.l1},
        {"ce", it.ce},
        {"ce_sae", it.ce_sae},
        {"ce_zero", it.ce_zero},
        {"ce_score", it.ce_score},
        {"kl_sae", it.kl_sae},
        {"kl_zero", it.kl_zero},
        {"kl_score", it.kl_score}})
    out[name] = number(value);
  out["d_sae"] = report.d_sae;
  out["dead"] = it.dead;
  out["density"] = Json::array();
  for (const auto& [from, to, features] : it.density)
    out["density"].push_back(
        {{"from", number(from)}, {"to", number(to)}, {"features", features}});
  return text_of(out);
}

}  // namespace mlxterp::report
