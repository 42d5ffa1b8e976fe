#include "mlxterp/report/steering.h"

#include <algorithm>
#include <cmath>

#include "analysis/steering_checks.h"
#include "core/fail.h"
#include "report/generated.h"
#include "report/takeaway.h"

namespace mlxterp::report {

namespace {

using mlxterp::name;

Json described(const SteeringVector& vector) {
  Json out;
  out["model"] = vector.model;
  out["model_type"] = vector.model_type;
  out["model_layers"] = vector.model_layers;
  out["d_model"] = vector.d_model();
  out["site"] = "resid_post";
  out["operation"] = name(vector.operation);
  out["method"] = vector.method;
  out["pairs"] = vector.pairs;
  out["positions"] = vector.positions;
  out["tokenizer"] = vector.tokenizer;
  return out;
}

}  // namespace

std::string to_json(
    const SteeringTraining& training,
    const std::string& output,
    const std::vector<std::string>& edits) {
  auto out = described(training.vector);
  out["edits"] = edits;
  out["output"] = output;
  out["layers"] = Json::array();
  for (const auto& it : training.layers)
    out["layers"].push_back(
        {{"layer", it.layer},
         {"norm", number(it.norm)},
         {"residual_norm", number(it.residual_norm)},
         {"cosine", number(it.cosine)},
         {"auc", number(it.auc)},
         {"d_prime", number(it.d_prime)}});
  return text_of(out);
}

std::string to_json(const SteeringVector& vector, const std::string& output) {
  auto out = described(vector);
  out["output"] = output;
  out["layers"] = Json::array();
  for (const auto& it : vector.layers)
    out["layers"].push_back(
        {{"layer", it.layer}, {"residual_norm", number(it.residual_norm)}});
  return text_of(out);
}

std::string to_json(const SteerReport& report) {
  const auto& sweep = report.sweep;
  Json out;
  out["model"] = report.model;
  out["edits"] = report.edits;
  out["vector"] = report.vector;
  out["metric"] = report.metric;
  out["warnings"] = report.warnings;
  out["prompts"] = sweep.prompts;
  out["random"] = report.random;
  out["seed"] = report.seed;
  out["strengths"] = numbers(sweep.strengths);
  out["layers"] = Json::array();
  for (const auto& it : sweep.layers)
    out["layers"].push_back(
        {{"layer", it.layer},
         {"residual_norm", number(it.residual_norm)},
         {"slope", number(it.slope)},
         {"low", number(it.low)},
         {"high", number(it.high)},
         {"contrary", number(it.contrary)},
         {"random", number(it.random)}});
  out["unsteered"] = numbers(sweep.unsteered);
  out["values"] = numbers(sweep.metric);
  out["change"] = numbers(sweep.change());
  out["slopes"] = numbers(sweep.slopes);
  out["random_slopes"] = numbers(sweep.random_slopes);
  out["neutral"] = nullptr;
  if (sweep.neutral_tokens > 0) {
    Json neutral;
    neutral["tokens"] = sweep.neutral_tokens;
    neutral["unsteered"] = number(sweep.neutral_perplexity);
    neutral["perplexity"] = numbers(sweep.perplexity);
    neutral["kl"] = numbers(sweep.kl);
    out["neutral"] = std::move(neutral);
  }
  out["rows"] = sweep.rows;
  return text_of(out);
}

std::string to_json(const SteerApplyReport& report) {
  Json out;
  out["model"] = report.model;
  out["edits"] = report.edits;
  out["vector"] = report.vector;
  out["operation"] = name(report.operation);
  out["strength"] = report.strength ? number(*report.strength) : Json();
  out["when"] = report.when;
  out["sampling"] = json_of(report.sampling, report.from_model);
  out["layers"] = Json::array();
  for (const auto& it : report.steering.layers)
    out["layers"].push_back(
        {{"layer", it.layer},
         {"residual_norm", number(it.residual_norm)},
         {"length", number(it.length)}});
  out["told"] = report.steering.told;
  out["texts"] = Json::array();
  for (size_t i = 0; i < report.steered.size(); ++i) {
    auto& own = out["texts"].emplace_back(Json::object());
    own["prompt_tokens"] = report.steered[i].prompt.size();
    add_generated(
        own["unsteered"], report.unsteered[i], report.unsteered_labels[i]);
    add_generated(own["steered"], report.steered[i], report.steered_labels[i]);
  }
  out["seconds"] = number(report.seconds);
  return text_of(out);
}

Heatmap heatmap(const SteerReport& report) {
  const auto& sweep = report.sweep;
  Heatmap map;
  map.kind = "Steering";
  map.heading = report.metric;
  map.about = fmt::format(
      "The change of {}, mean over {} prompts, when the vector is added to "
      "what a layer leaves in the residual stream. A strength of 1 is as long "
      "as the residual stream there is on average.",
      report.metric,
      sweep.prompts);
  map.row_axis = "layer";
  map.column_axis = "strength";
  for (const float strength : sweep.strengths)
    map.columns.push_back(fmt::format("{:+g}", strength));
  const auto change = sweep.change();
  const size_t across = sweep.strengths.size();
  Heatmap::Detail perplexity{"perplexity"}, kl{"KL"};
  for (size_t l = sweep.layers.size(); l-- > 0;) {
    map.rows.push_back(fmt::format("{}", sweep.layers[l].layer));
    for (size_t s = 0; s < across; ++s) {
      map.values.push_back(change[l * across + s]);
      if (sweep.neutral_tokens == 0) continue;
      perplexity.values.push_back(sweep.perplexity[l * across + s]);
      kl.values.push_back(sweep.kl[l * across + s]);
    }
  }
  if (sweep.neutral_tokens > 0) {
    map.details = {std::move(perplexity), std::move(kl)};
    map.bounds = {{"perplexity, unsteered", sweep.neutral_perplexity}};
  }
  const auto& best = most_responsive(sweep);
  map.takeaway = fmt::format(
      "Layer {} responds most: {} a unit of strength (95% interval {} to {}), "
      "{} of prompts the other way{}.",
      best.layer,
      written(best.slope, true),
      written(best.low, true),
      written(best.high, true),
      percents(static_cast<double>(best.contrary)),
      std::isnan(best.random) ? ""
                              : fmt::format(
                                    "; the largest of {} random directions {}",
                                    report.random,
                                    written(best.random, false)));
  map.warnings = report.warnings;
  map.facts = {
      {"model", report.model},
      {"vector", report.vector},
      {"prompts", fmt::format("{}", sweep.prompts)},
      {"seed", fmt::format("{}", report.seed)}};
  return map;
}

const SteerResponse& most_responsive(const SteeringSweep& sweep) {
  return *std::ranges::max_element(
      sweep.layers, {}, [](const SteerResponse& it) {
        return std::abs(it.slope);
      });
}

std::string edit_text(
    const SteeringVector& vector,
    const std::string& file,
    int layer,
    float strength) {
  const auto& it = vector.at(layer);
  return fmt::format(
      "layers.{0}.resid_post=add_vector({1}:layers.{0}, {2:.6g})",
      layer,
      file,
      static_cast<double>(strength * it.residual_norm) /
          length_of(it.direction));
}

}  // namespace mlxterp::report
