// mlxterp/report/features.h: what an SAE's features say of a prompt and a text,
// and how good it is, as JSON.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlxterp/report/names.h"
#include "mlxterp/sae/evaluate.h"
#include "mlxterp/sae/features.h"

namespace mlxterp::report {

/** `mlxterp features`. A value. */
struct FeatureReport {
  std::string model = {}, sae = {};
  std::vector<std::string> edits = {};  ///< As written.
  FeatureReading reading = {};
  std::optional<std::string> text = {};  ///< The file.
  std::optional<FeatureText> contexts = {};
};

/** The answer of `mlxterp features` (docs/json.md). `model` names tokens. */
std::string to_json(
    const InterpretableModel& model, const FeatureReport& report);

/** `mlxterp sae eval`. A value. */
struct SaeEvalReport {
  std::string model = {}, sae = {}, text = {};
  std::vector<std::string> edits = {};
  int d_sae = 0;
  SaeEvaluation result = {};
};

/** The answer of `mlxterp sae eval` (docs/json.md). */
std::string to_json(const SaeEvalReport& report);

}  // namespace mlxterp::report
