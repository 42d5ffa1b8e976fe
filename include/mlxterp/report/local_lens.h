// mlxterp/report/local_lens.h: a prompt's own Jacobian lens as JSON.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlxterp/analysis/local_lens.h"
#include "mlxterp/report/names.h"

namespace mlxterp::report {

/** Vectors of tokens at each cell of a prompt. A value. */
struct LocalLensReport {
  std::string model = {};
  std::vector<std::string> edits = {};
  std::optional<std::string> output = {}, jacobian = {};
  std::vector<NamedToken> prompt = {}, tokens = {};
  int skip = 0;
  LinearRule rule = {};
  std::vector<int> layers = {};
  /** [layer][token][pos from skip]; cosines to the corpus lens, none without
   * one. */
  std::vector<std::vector<std::vector<float>>> lengths = {}, cosines = {};
};

/** Evaluates. */
LocalLensReport local_lens_report(
    const InterpretableModel& model, const LocalLens& lens);

/** The answer of `mlxterp jlens local` (docs/json.md). */
std::string to_json(const LocalLensReport& report);

}  // namespace mlxterp::report
