#include "mlxterp/report/jacobian_lens.h"

#include "mlx/ops.h"
#include "report/json.h"

namespace mx = mlx::core;

namespace mlxterp::report {

namespace {

Json json_of(const JacobianSource& source) {
  Json out;
  out["prompts"] = source.prompts;
  out["length"] = source.length;
  out["skip"] = source.skip;
  out["rule"] = name(source.rule);
  out["target_layer"] = source.target_layer;
  out["converged"] = source.converged;
  out["weights"] = source.weights;
  out["tokenizer"] = source.tokenizer;
  out["corpus"] = source.corpus;
  return out;
}

}  // namespace

std::string to_json(const JacobianFitReport& report) {
  Json out;
  out["model"] = report.model;
  out["output"] = report.output;
  out["layers"] = report.layers;
  out["d_model"] = report.d_model;
  out["source"] = json_of(report.source);
  out["changes"] = numbers(report.changes);
  return text_of(out);
}

DirectionsReport directions_report(
    const InterpretableModel& model,
    const LensDirections& directions,
    const std::string& name,
    const std::string& output) {
  DirectionsReport out{
      .model = name,
      .output = output,
      .tokens = named(model, directions.tokens),
      .layers = directions.layers,
      .source = directions.source,
      .lengths = {}};
  for (const auto& it : directions.directions) {
    auto lengths = mx::sqrt(mx::sum(mx::square(it), -1));
    lengths.eval();
    out.lengths.emplace_back(
        lengths.data<float>(), lengths.data<float>() + lengths.size());
  }
  return out;
}

std::string to_json(const DirectionsReport& report) {
  Json out;
  out["model"] = report.model;
  out["output"] = report.output;
  out["tokens"] = json_of(report.tokens);
  out["layers"] = report.layers;
  out["source"] = json_of(report.source);
  out["lengths"] = Json::array();
  for (const auto& it : report.lengths)
    out["lengths"].push_back(numbers(it));
  return text_of(out);
}

}  // namespace mlxterp::report
