#include "mlxterp/report/local_lens.h"

#include "mlx/ops.h"
#include "report/json.h"

namespace mx = mlx::core;

namespace mlxterp::report {

namespace {

using Cells = std::vector<std::vector<float>>;

Cells cells(const mx::array& values) {
  auto flat = mx::contiguous(mx::astype(values, mx::float32));
  flat.eval();
  Cells out;
  const auto width = flat.shape(1);
  for (int i = 0; i < flat.shape(0); ++i) {
    const auto* row = flat.data<float>() + int64_t{i} * width;
    out.emplace_back(row, row + width);
  }
  return out;
}

Json json_of(const std::vector<Cells>& layers) {
  auto out = Json::array();
  for (const auto& layer : layers) {
    auto rows = Json::array();
    for (const auto& row : layer)
      rows.push_back(numbers(row));
    out.push_back(std::move(rows));
  }
  return out;
}

}  // namespace

LocalLensReport local_lens_report(
    const InterpretableModel& model, const LocalLens& lens) {
  LocalLensReport out{
      .prompt = named(model, lens.ids),
      .tokens = named(model, lens.tokens),
      .skip = lens.skip,
      .rule = lens.source.rule,
      .layers = lens.layers};
  for (const auto& it : lens.directions)
    out.lengths.push_back(cells(mx::sqrt(mx::sum(mx::square(it), -1))));
  for (const auto& it : lens.cosines)
    out.cosines.push_back(cells(it));
  return out;
}

std::string to_json(const LocalLensReport& report) {
  Json out;
  out["model"] = report.model;
  out["edits"] = report.edits;
  out["output"] = report.output ? Json(*report.output) : Json(nullptr);
  out["jacobian"] = report.jacobian ? Json(*report.jacobian) : Json(nullptr);
  out["prompt"] = json_of(report.prompt);
  out["tokens"] = json_of(report.tokens);
  out["skip"] = report.skip;
  out["rule"] = name(report.rule);
  out["layers"] = report.layers;
  out["lengths"] = json_of(report.lengths);
  out["cosines"] = json_of(report.cosines);
  return text_of(out);
}

}  // namespace mlxterp::report
