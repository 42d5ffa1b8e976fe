#include "mlxterp/report/tuned_lens.h"

#include "report/json.h"

namespace mlxterp::report {

namespace {

Json json_of(const std::vector<LensQuality>& layers) {
  auto out = Json::array();
  for (const auto& layer : layers)
    out.push_back(
        {{"kl", number(layer.kl)},
         {"cross_entropy", number(layer.cross_entropy)},
         {"agreement", number(layer.agreement)}});
  return out;
}

Json json_of(const LensEvaluation& scores) {
  Json out;
  out["positions"] = scores.positions;
  out["cross_entropy"] = number(scores.cross_entropy);
  out["logit"] = json_of(scores.logit);
  out["tuned"] = json_of(scores.tuned);
  return out;
}

}  // namespace

std::string to_json(const TrainingReport& report) {
  Json out;
  out["model"] = report.model;
  out["edits"] = report.edits;
  out["output"] = report.output;
  out["steps"] = report.losses.size();
  out["length"] = report.length;
  out["losses"] = numbers(report.losses);
  out["evaluation"] = report.evaluation ? json_of(*report.evaluation) : Json();
  return text_of(out);
}

std::string to_json(
    const LensEvaluation& scores,
    const std::string& model,
    const std::string& lens,
    const std::vector<std::string>& edits) {
  Json out;
  out["model"] = model;
  out["edits"] = edits;
  out["lens"] = lens;
  out["evaluation"] = json_of(scores);
  return text_of(out);
}

}  // namespace mlxterp::report
