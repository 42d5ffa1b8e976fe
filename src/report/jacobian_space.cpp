#include "mlxterp/report/jacobian_space.h"

#include "report/json.h"

namespace mlxterp::report {

namespace {

Json json_of(const SpaceCell& cell) {
  Json out;
  out["tokens"] = json_of(cell.tokens);
  out["coefficients"] = numbers(cell.coefficients);
  out["explained"] = numbers(cell.explained);
  out["occupancy"] = cell.occupancy ? Json(*cell.occupancy) : Json(nullptr);
  return out;
}

}  // namespace

JacobianSpaceReport jacobian_space_report(
    const InterpretableModel& model,
    const JacobianSpace& space,
    const SparseOptions& options) {
  JacobianSpaceReport out{
      .method = options.method,
      .k = options.k,
      .prompt = named(model, space.ids),
      .layers = space.layers,
      .positions = space.positions,
      .controls = space.controls};
  for (size_t i = 0; i < space.codes.size(); ++i) {
    if (i % space.positions.size() == 0) out.cells.emplace_back();
    const auto& code = space.codes[i];
    out.cells.back().push_back(
        {.tokens = named(model, code.tokens),
         .coefficients = code.coefficients,
         .explained = code.explained});
    if (!space.occupancy.empty())
      out.cells.back().back().occupancy = space.occupancy[i];
  }
  return out;
}

std::string to_json(const JacobianSpaceReport& report) {
  Json out;
  out["model"] = report.model;
  out["edits"] = report.edits;
  out["jacobian"] = report.jacobian;
  out["method"] = name(report.method);
  out["k"] = report.k;
  out["prompt"] = json_of(report.prompt);
  out["layers"] = report.layers;
  out["positions"] = report.positions;
  auto cells = Json::array();
  for (const auto& layer : report.cells) {
    auto row = Json::array();
    for (const auto& cell : layer)
      row.push_back(json_of(cell));
    cells.push_back(std::move(row));
  }
  out["cells"] = std::move(cells);
  auto controls = Json::array();
  for (const auto& layer : report.controls)
    controls.push_back(numbers(layer));
  out["controls"] = std::move(controls);
  return text_of(out);
}

}  // namespace mlxterp::report
