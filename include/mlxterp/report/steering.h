// mlxterp/report/steering.h: the training of a steering vector and what it does
// to a model, as JSON, and as a picture by layer and strength.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlxterp/analysis/steer_sweep.h"
#include "mlxterp/analysis/steering.h"
#include "mlxterp/generate/generate.h"
#include "mlxterp/report/heatmap.h"

namespace mlxterp::report {

/** The answer of `mlxterp steer train` (docs/json.md). `output`: where the
 * vector was written; `edits`: of the model, as written. */
std::string to_json(
    const SteeringTraining& training,
    const std::string& output,
    const std::vector<std::string>& edits = {});

/** The answer of `mlxterp steer export` and `import`. */
std::string to_json(const SteeringVector& vector, const std::string& output);

/** A sweep with what was asked for. A value. */
struct SteerReport {
  std::string model = {};
  std::string vector = {};  ///< Its file.
  std::string metric = {};
  std::vector<std::string> edits = {};
  std::vector<std::string> warnings = {};
  int random = 0;  ///< Directions of each layer.
  uint64_t seed = 0;
  SteeringSweep sweep = {};
};

/** The answer of `mlxterp steer sweep` (docs/json.md). */
std::string to_json(const SteerReport& report);

/** Texts without a vector and with it. A value. */
struct SteerApplyReport {
  std::string model = {};
  std::vector<std::string> edits = {};  ///< Of both, as written.
  std::string vector = {};              ///< Its file.
  SteeringOperation operation = SteeringOperation::add;
  std::optional<float> strength = {};  ///< Of add and clamp.
  std::string when = {};               ///< When it acts.
  Sampling sampling = {};
  /** Which of its numbers generation_config.json gave. */
  std::vector<std::string> from_model = {};
  Steering steering = {};
  std::vector<GeneratedText> unsteered = {}, steered = {};  ///< By prompt.
  std::vector<std::vector<std::string>> unsteered_labels = {},
                                        steered_labels = {};  ///< Of tokens.
  double seconds = 0;  ///< That both took.
};

/** The answer of `mlxterp steer apply` (docs/json.md). */
std::string to_json(const SteerApplyReport& report);

/** The mean change of the metric, layers by strengths. */
Heatmap heatmap(const SteerReport& report);

/** The layer with the largest mean slope, in either sense. */
const SteerResponse& most_responsive(const SteeringSweep& sweep);

/** What a strength is as an edit:
 * "layers.3.resid_post=add_vector(v.safetensors: layers.3, 1.62)". `file`: the
 * vector's. Evaluates. */
std::string edit_text(
    const SteeringVector& vector,
    const std::string& file,
    int layer,
    float strength);

}  // namespace mlxterp::report
