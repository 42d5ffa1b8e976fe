// mlxterp/report/tuned_lens.h: the training and the quality of a tuned lens as
// JSON.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlxterp/analysis/tuned_lens.h"

namespace mlxterp::report {

/** A value. */
struct TrainingReport {
  std::string model = {};
  std::string output = {};         ///< Where the lens was written.
  int length = 0;                  ///< Tokens of a step.
  std::vector<float> losses = {};  ///< That each step began with, in nats.
  std::vector<std::string> edits = {};
  std::optional<LensEvaluation> evaluation = {};
};

/** The answer of `mlxterp tuned-lens train` (docs/json.md). */
std::string to_json(const TrainingReport& report);

/** The answer of `mlxterp tuned-lens eval`; `lens` is its file. */
std::string to_json(
    const LensEvaluation& scores,
    const std::string& model,
    const std::string& lens,
    const std::vector<std::string>& edits = {});

}  // namespace mlxterp::report
