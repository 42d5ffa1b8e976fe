#include "mlxterp/report/sae_train.h"

#include "report/json.h"

namespace mlxterp::report {

namespace {

Json json_of(const std::optional<SaeTrained>& it) {
  if (!it) return nullptr;
  Json out;
  out["rows"] = it->fit.rows;
  out["explained_variance"] = number(it->fit.explained_variance);
  out["l0"] = number(it->fit.l0);
  out["dead_share"] = number(it->dead_share);
  out["layers"] = nullptr;
  for (const auto& fit : it->layers) {
    Json layer;
    layer["explained_variance"] = number(fit.explained_variance);
    layer["l0"] = number(fit.l0);
    out["layers"].push_back(layer);
  }
  return out;
}

Json json_of(const std::optional<SaeStep>& it) {
  if (!it) return nullptr;
  Json out;
  out["loss"] = number(it->loss);
  out["explained_variance"] = number(it->explained);
  out["l0"] = number(it->l0);
  out["dead_share"] = number(it->dead_share);
  return out;
}

Json name_or_null(const std::string& name) {
  return name.empty() ? Json() : Json(name);
}

}  // namespace

std::string to_json(const SaeTrainReport& report) {
  const auto& it = report.summary;
  Json out;
  out["model"] = name_or_null(report.model);
  out["edits"] = report.edits;
  out["text"] = name_or_null(report.text);
  out["store"] = name_or_null(report.store);
  out["folder"] = report.folder;
  out["complete"] = it.complete;
  out["site"] = it.site;
  out["site_out"] = name_or_null(it.site_out);
  out["layers"] = it.layers.empty() ? Json() : Json(it.layers);
  out["recipe"] = name_of(it.options.recipe);
  out["d_in"] = it.d_in;
  out["d_out"] = it.d_out;
  out["features"] = it.options.features;
  out["k"] = it.options.k;
  out["steps"] = it.steps;
  out["kept"] = it.kept;
  out["tokens"] = it.rows;
  out["left_out"] = it.left_out;
  out["last"] = json_of(it.last);
  out["trained"] = json_of(it.trained);
  out["baseline"] = json_of(it.baseline);
  out["seconds"] = number(it.seconds);
  out["tokens_per_second"] = number(it.rows_per_second);
  auto& times = out["times"];
  times["activations"] = number(it.model_seconds);
  times["products"] = number(it.times.products);
  times["choice"] = number(it.times.choice);
  times["sparse"] = number(it.times.sparse);
  times["optimiser"] = number(it.times.optimiser);
  return text_of(out);
}

}  // namespace mlxterp::report
