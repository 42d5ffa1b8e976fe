// spec/lens_edit.h: edits along the vectors of a Jacobian lens, as texts have
// them.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "mlxterp/spec/edit.h"

namespace mlxterp::spec {

/** lens_steer, lens_ablate, lens_swap or lens_clamp of a file's vectors. */
struct LensCall {
  std::string word = {}, file = {};
  std::vector<std::string> tokens = {};
  std::optional<float> strength = {};
  std::string run = {};  ///< Of lens_clamp: the values of a clean run.
};

/**
 * At layers.N.resid_post, along vectors of layer N. `sites` are the ones it
 * will stand at; empty: not known, and what is wrong of a layer is thrown where
 * it acts. Without a model it throws usage where it acts. Reads the files that
 * the options let it read, and evaluates. Throws usage, unknown_name,
 * out_of_range; bad_data, environment.
 */
Intervention lens_edit(
    const LensCall& call,
    const EditOptions& options,
    const std::vector<std::string>& sites);

}  // namespace mlxterp::spec
