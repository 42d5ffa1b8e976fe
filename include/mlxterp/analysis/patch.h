// mlxterp/analysis/patch.h: activation patching, which values of one run, put
// into another, restore its prediction.

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
  /** Pairs of a clean and a corrupted position that correspond, for prompts
   * that do not match position by position; all others are never patched.
   * Empty: the prompts have one length. */
  std::vector<std::pair<int, int>> position_map = {};
  /** One forward pass per cell: slow, for comparison. Models that are no
   * Decoder are always swept so. */
  bool one_pass_per_cell = false;
  /** Most bytes to compute with at once; 0: as many as are useful. */
  size_t memory = 0;
  Progress progress = {};
};

/**
 * Activation patching (Vig et al., 2020; Meng et al., 2022), exact: each cell
 * is the result of a whole forward pass with that one change. All cells go up
 * the layers together (ARCHITECTURE.md, "The wavefront"), so a sweep costs
 * about as much as a few forward passes. Patterns are patched in the heads of
 * the layer alone: z = pattern v. Evaluates.
 *
 * Throws usage, unknown_name, out_of_range, before any long work.
 */
Sweep patch(const InterpretableModel& model, const PatchOptions& options);

}  // namespace mlxterp
