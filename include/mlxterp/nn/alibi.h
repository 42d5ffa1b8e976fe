// mlxterp/nn/alibi.h: positions as a bias of the scores.

#pragma once

#include <vector>

#include "mlx/array.h"

namespace mlxterp::nn {

/**
 * Attention with linear biases (ALiBi; Press et al., 2022): a source's score
 * falls by the head's slope with every position between it and the destination.
 * A value; its call is lazy.
 */
struct Alibi {
  std::vector<float> slopes = {};  ///< Of each head; empty: no bias at all.
  /** Slopes, and their products with positions from 0 on, are rounded to
   * bfloat16, then multiplied by `scale` (Falcon): the bias depends on where
   * the two stand, not on their distance alone. */
  bool rounded = false;
  float scale = 1.0f;

  /** float32 [head, dest, src], 0 where a source is behind its destination; the
   * last destination is the last source. */
  mlx::core::array operator()(int dest, int src) const;
};

/** The paper's slopes of so many heads; where they are no power of 2, those of
 * the power below it and every other one of twice that. */
std::vector<float> alibi_slopes(int heads);

}  // namespace mlxterp::nn
