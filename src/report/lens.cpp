#include "mlxterp/report/lens.h"

#include "report/json.h"

namespace mlxterp::report {

namespace {

Json json_of_cell(
    const Lens& lens, const LensNames& names, size_t row, size_t column) {
  const auto k = static_cast<size_t>(lens.top_k);
  const auto at = lens.cell(row, column);
  Json cell;
  cell["finite"] = lens.winner(row, column) >= 0;
  cell["top"] = Json::array();
  for (size_t i = at * k; i < (at + 1) * k && lens.top_ids[i] >= 0; ++i) {
    const int id = lens.top_ids[i];
    auto entry = json_of(NamedToken{id, names.token(id)});
    entry["probability"] = number(lens.top_probabilities[i]);
    entry["logit"] = number(lens.top_logits[i]);
    cell["top"].push_back(std::move(entry));
  }
  if (lens.track)
    cell["track"] = {
        {"probability", number(lens.track_probabilities[at])},
        {"logit", number(lens.track_logits[at])},
        {"rank",
         lens.track_ranks[at] < 0 ? Json() : Json(lens.track_ranks[at])}};
  return cell;
}

}  // namespace

LensNames lens_names(
    const InterpretableModel& model, const Lens& lens, std::string model_name) {
  return {
      .model = std::move(model_name),
      .prompt = labels(model, lens.ids),
      .token = [&model](int id) { return label(model, id); }};
}

std::string to_json(const Lens& lens, const LensNames& names) {
  Json out;
  out["model"] = names.model;
  out["tokens"] = Json::array();
  for (size_t i = 0; i < lens.ids.size(); ++i)
    out["tokens"].push_back(json_of(NamedToken{lens.ids[i], names.prompt[i]}));
  out["edits"] = names.edits;
  out["warnings"] = names.warnings;
  out["read"] = lens.site;
  out["tuned"] = names.tuned ? Json(*names.tuned) : Json();
  out["jacobian"] = names.jacobian ? Json(*names.jacobian) : Json();
  out["positions"] = lens.positions;
  out["track"] = nullptr;
  if (lens.track) {
    out["track"] = json_of(NamedToken{*lens.track, names.token(*lens.track)});
    const auto row = lens.on_top_from(lens.columns() - 1);
    out["track"]["on_top_from"] = row ? Json(lens.sites[*row]) : Json();
  }
  out["rows"] = Json::array();
  for (size_t r = 0; r < lens.rows(); ++r) {
    Json row;
    row["site"] = lens.sites[r];
    row["layer"] = lens.layers[r] ? Json(*lens.layers[r]) : Json();
    row["cells"] = Json::array();
    for (size_t c = 0; c < lens.columns(); ++c)
      row["cells"].push_back(json_of_cell(lens, names, r, c));
    out["rows"].push_back(std::move(row));
  }
  return text_of(out);
}

}  // namespace mlxterp::report
