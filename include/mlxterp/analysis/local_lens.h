// mlxterp/analysis/local_lens.h: a prompt's own Jacobian lens, for some tokens,
// at each of its positions.

#pragma once

#include <filesystem>
#include <vector>

#include "mlxterp/analysis/jacobian_lens.h"

namespace mlxterp {

struct LocalLensOptions {
  std::vector<int> layers = {};  ///< From the end below 0; empty: all.
  int skip = 0;                  ///< Leading positions that are left out.
  LinearRule rule = {};
  const JacobianLens* lens = nullptr;  ///< A corpus' lens to compare with.
  size_t memory = size_t{4} << 30;     ///< As in JacobianOptions.
  Progress progress = {};
};

/**
 * Of each layer l, token w and position t what a Jacobian lens is the mean of,
 *
 *     v_l[w, t] = sum over t' >= t  (d h_last[t'] / d h_l[t])^T W_U[w]
 *
 * with t and t' from `skip` to the prompt's last position. A value.
 */
struct LocalLens {
  std::vector<int> layers;                   ///< Ascending.
  std::vector<int> tokens, ids;              ///< Of the rows; of the prompt.
  std::vector<mlx::core::array> directions;  ///< [token, pos, d_model] of each.
  /** Cosine of each to the corpus lens' direction, [token, pos], NaN where the
   * lens has no such layer; none without a lens. */
  std::vector<mlx::core::array> cosines;
  int skip = 0;  ///< The first position.
  JacobianSource source = {};

  /** Safetensors: local.0, local.1, ... and cosine.0, ...; tokens, ids and
   * source as metadata. Whole or not at all. Throws usage, environment. */
  void save(const std::filesystem::path& path, bool overwrite = false) const;
};

/** Exact: as many rows walk down the prompt's layers as there are tokens.
 * Evaluates. Throws usage where the prompt has not more than `skip` tokens or
 * the lens is of another model, out_of_range. */
LocalLens local_lens(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const std::vector<int>& tokens,
    const LocalLensOptions& options = {});

}  // namespace mlxterp
