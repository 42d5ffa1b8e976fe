// mlxterp/nn/causal_conv.h: a short convolution along positions.

#pragma once

#include <optional>

#include "mlxterp/nn/module.h"

namespace mlxterp::nn {

/**
 * Each feature's own filter over a position and those before it, [batch, pos,
 * d] to the same: y[p] = sum over j of weight[j] x[p - (width - 1) + j], plus
 * the bias; before the first position there are zeros. Parameters: weight [d,
 * width], bias [d] if asked for. Computed in float32 and cast back.
 *
 * A KvCache keeps the last width - 1 rows of x. In a packed pass each sequence
 * is filtered with what it continues.
 */
class CausalConv : public Module {
 public:
  CausalConv(int d, int width, bool bias);

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  mlx::core::array weight;
  std::optional<mlx::core::array> bias;

 private:
  /** Of rows behind `before`, [batch, width - 1, d]; absent: zeros. */
  mlx::core::array filtered(
      const mlx::core::array& x,
      const std::optional<mlx::core::array>& before) const;
};

}  // namespace mlxterp::nn
