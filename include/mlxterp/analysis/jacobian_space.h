// mlxterp/analysis/jacobian_space.h: an activation as a sparse, non-negative
// sum of a Jacobian lens' token directions.

#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "mlxterp/analysis/jacobian_lens.h"

namespace mlxterp {

/** Where coefficients come from once an atom is chosen. */
enum class SparseMethod {
  /** One exact line search along the gradient, projected to c >= 0 and halved
   * until it makes nothing worse (gradient pursuit: Blumensath & Davies, 2008).
   */
  pursuit,
  /** The best there are on the chosen atoms (Lawson & Hanson, 1974, ch. 23). */
  nnls,
};

/** "pursuit", "nnls". */
const char* name(SparseMethod method);
/** Throws usage with the names there are. */
SparseMethod sparse_method(std::string_view name);

struct SparseOptions {
  int k = 16;  ///< Atoms at most, 1 to 256 and the vocabulary's size.
  SparseMethod method = SparseMethod::pursuit;
  /** Correlations that are held at a time, in bytes. */
  size_t memory = size_t{256} << 20;
};

/** An activation h as sum over i of c_i v_i / |v_i|, v_i the direction of token
 * i (JacobianLens::directions). A value. */
struct SparseCode {
  std::vector<int> tokens;  ///< As chosen; fewer than k where none helps.
  /** At the end, in h's units, 0 where an atom has become inactive. */
  std::vector<float> coefficients;
  /** With 1, 2, ... k atoms: 1 - |h - sum|^2 / |h|^2. Where none helps any
   * more the last number goes on; NaN of h = 0. */
  std::vector<float> explained;
};

/**
 * Each row of h [row, d_model] of a layer's residual stream, greedily: the next
 * atom is the one whose unit direction agrees best with what is left. The
 * dictionary [vocab, d_model] is never held: what agrees with r is W_U (J r),
 * and only the directions of chosen atoms are built. No norm's gain is in them.
 * Arithmetic of a row in float64, agreement in float32. Evaluates. Throws usage
 * where the width or k is another or h is not finite, out_of_range.
 */
std::vector<SparseCode> sparse_codes(
    const InterpretableModel& model,
    const JacobianLens& lens,
    int layer,
    const mlx::core::array& h,
    const SparseOptions& options = {});

struct SpaceOptions {
  /** As sets, from the end below 0; empty: all that the lens has, and the last
   * layer; all positions. */
  std::vector<int> layers = {}, positions = {};
  SparseOptions sparse = {};
  /** Random directions that each layer's dictionary is given, too. */
  int controls = 32;
  uint64_t seed = 0;
  Progress progress = {};
};

/** A prompt's activations in J-space. [layer, pos] lie flat. A value. */
struct JacobianSpace {
  std::vector<int> ids;                ///< The whole prompt.
  std::vector<int> layers, positions;  ///< Ascending.
  std::vector<SparseCode> codes;       ///< [layer, pos]
  /** Mean share explained of a random direction, [layer][k]; empty without
   * controls. A share knows no length: they stand for any activation's. */
  std::vector<std::vector<float>> controls;
  /** [layer, pos]: the number of atoms at which the share explained is furthest
   * ahead of the controls' mean, 0 where it never is; empty without them. */
  std::vector<int> occupancy;
};

/** The residual stream layers.l.resid_post of one prompt, decomposed at each
 * cell; the last layer's directions are W_U's rows where the lens has none.
 * Evaluates. Throws usage, out_of_range. */
JacobianSpace jacobian_space(
    const InterpretableModel& model,
    const JacobianLens& lens,
    const Inputs& prompt,
    const SpaceOptions& options = {});

}  // namespace mlxterp
