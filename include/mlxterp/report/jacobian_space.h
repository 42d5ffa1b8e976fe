// mlxterp/report/jacobian_space.h: what activations are made of, as JSON.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlxterp/analysis/jacobian_space.h"
#include "mlxterp/report/names.h"

namespace mlxterp::report {

/** One activation; tokens as chosen, coefficients and shares as SparseCode has
 * them. A value. */
struct SpaceCell {
  std::vector<NamedToken> tokens = {};
  std::vector<float> coefficients = {}, explained = {};
  std::optional<int> occupancy = {};  ///< None without controls.
};

/** A prompt's activations in J-space. A value. */
struct JacobianSpaceReport {
  std::string model = {};
  std::vector<std::string> edits = {};
  std::string jacobian = {};
  SparseMethod method = SparseMethod::pursuit;
  int k = 0;
  std::vector<NamedToken> prompt = {};
  std::vector<int> layers = {}, positions = {};
  std::vector<std::vector<SpaceCell>> cells = {};  ///< [layer][pos]
  std::vector<std::vector<float>> controls = {};   ///< [layer][k], or none.
};

JacobianSpaceReport jacobian_space_report(
    const InterpretableModel& model,
    const JacobianSpace& space,
    const SparseOptions& options);

/** The answer of `mlxterp jlens space` (docs/json.md). */
std::string to_json(const JacobianSpaceReport& report);

}  // namespace mlxterp::report
