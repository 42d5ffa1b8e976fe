// mlxterp/report/jacobian_lens.h: Jacobian lenses and their fits as JSON.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/analysis/jacobian_lens.h"
#include "mlxterp/report/names.h"

namespace mlxterp::report {

/** A lens that was fitted or merged. A value. */
struct JacobianFitReport {
  std::string model = {}, output = {};
  std::vector<int> layers = {};
  int d_model = 0;
  JacobianSource source = {};
  std::vector<float> changes = {};  ///< See JacobianFit.
};

/** The answer of `mlxterp jlens fit` and `merge` (docs/json.md). */
std::string to_json(const JacobianFitReport& report);

/** Vectors of tokens. A value. */
struct DirectionsReport {
  std::string model = {}, output = {};
  std::vector<NamedToken> tokens = {};
  std::vector<int> layers = {};
  JacobianSource source = {};
  std::vector<std::vector<float>> lengths = {};  ///< [layer][token]
};

/** Evaluates. */
DirectionsReport directions_report(
    const InterpretableModel& model,
    const LensDirections& directions,
    const std::string& name,
    const std::string& output);

/** The answer of `mlxterp jlens directions`. */
std::string to_json(const DirectionsReport& report);

}  // namespace mlxterp::report
