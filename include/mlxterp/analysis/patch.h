// mlxterp/analysis/patch.h: activation patching, which values of one run make
// another one say what it says.

#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "mlxterp/analysis/metric.h"
#include "mlxterp/analysis/sweep.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

struct PatchOptions {
  /** One prompt or several; each pair is swept, and the results averaged. */
  Inputs clean, corrupt;
  /** A site of every layer: resid_pre, resid_mid, resid_post, attn_out,
   * mlp_out, z, q, k, v, pattern (by destination), mlp.post, or any other with
   * a row for each position. */
  std::string site = "resid_pre";
  std::vector<Axis> by = {Axis::layer, Axis::position};
  Metric metric = {};  ///< Must be given.
  Direction direction = Direction::denoise;
  /** Only these; negative ones count from the end. Empty: all. */
  std::vector<int> layers = {}, positions = {}, heads = {}, neurons = {};
  /** Pairs of a clean and a corrupted position that stand for each other, where
   * the prompts do not match position by position: the others are never
   * patched. Empty: the prompts have one length. */
  std::vector<std::pair<int, int>> position_map = {};
  /** One forward pass a cell: slow, for comparison. So is any model that is no
   * Decoder swept. */
  bool one_pass_per_cell = false;
  /** Bytes that what is computed at once may take; 0: as many as pay off. */
  size_t memory = 0;
  Progress progress = {};
};

/**
 * Activation patching (Vig et al., 2020; Meng et al., 2022), exact: each cell
 * is what a whole forward pass with that one change would say. All cells travel
 * up the layers together (ARCHITECTURE.md, "The wavefront"), so a sweep costs
 * about as much as a few forward passes. Patterns are patched in the heads of
 * the layer alone: z = pattern v. Evaluates.
 *
 * Throws usage, unknown_name, out_of_range, before any long work.
 */
Sweep patch(const InterpretableModel& model, const PatchOptions& options);

}  // namespace mlxterp
