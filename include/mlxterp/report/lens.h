// mlxterp/report/lens.h: a logit lens as JSON, and what its numbers are called.

#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "mlxterp/analysis/lens.h"

namespace mlxterp::report {

/** What a lens's numbers are called. */
struct LensNames {
  std::string model = {};
  std::vector<std::string> prompt = {};  ///< A label for each of its tokens.
  std::function<std::string(int)> token = {};  ///< A token's label.
  std::vector<std::string> edits = {};         ///< As their author wrote them.
  std::optional<std::string> tuned = {};       ///< The tuned lens, if any.
  std::optional<std::string> jacobian = {};    ///< The Jacobian lens, if any.
  std::string command = {};                    ///< That asked for it, if any.
  std::vector<std::string> warnings = {};      ///< Of the tracked token.
};

/** The names of a lens of that model, which must outlive them. */
LensNames lens_names(
    const InterpretableModel& model, const Lens& lens, std::string model_name);

/** The answer of `mlxterp lens` (docs/json.md). */
std::string to_json(const Lens& lens, const LensNames& names);

}  // namespace mlxterp::report
