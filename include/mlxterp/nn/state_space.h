// mlxterp/nn/state_space.h: a selective state space in place of attention.

#pragma once

#include <limits>
#include <optional>

#include "mlxterp/nn/causal_conv.h"
#include "mlxterp/nn/linear.h"
#include "mlxterp/nn/mlp.h"
#include "mlxterp/nn/recurrent.h"

namespace mlxterp::nn {

struct StateSpaceConfig {
  int d_model = 0;
  int n_heads = 0;
  int d_head = 0;
  int n_groups = 1;  ///< Of heads that share B and C, and of the norm.
  int d_state = 0;
  int conv_width = 0;
  bool conv_bias = true;
  bool bias = false;                         ///< Of the projections.
  Activation activation = Activation::silu;  ///< Behind the convolution.
  /** Bounds of dt. */
  float dt_least = 0.0f, dt_most = std::numeric_limits<float>::infinity();
  NormConfig norm = {};  ///< Of what heads read, each group alone.
};

/**
 * Mamba-2 (Dao and Gu, 2024, "Transformers are SSMs"): each head has a memory S
 * [d_state, d_head] that fades, is written and is read:
 *
 *     S <- exp(-exp(A_log) dt) S + dt B x;  out = C S + D x
 *
 * in float32, and out_proj reads norm(out silu(z)). Sites, beside those of
 * z_proj, x_proj, B_proj, C_proj, dt_proj, conv (over x, B and C side by side),
 * norm and out_proj:
 *
 *     x, z, out  [batch, pos, head, d_head]; x behind convolution and
 * activation B, C       [batch, pos, group, d_state], likewise dt [batch, pos,
 * head, 1], softplus(dt_proj + dt_bias) in its bounds; float32 state [batch,
 * pos, head, d_state, d_head], S behind the position; float32, offered. Where
 * an edit differs from what was computed, it is what the position reads and the
 * next one goes on from
 *
 * Parameters, beside those of its parts: A_log, D, dt_bias [head]. A KvCache
 * keeps S, and what the convolution goes on from.
 */
class StateSpace : public Recurrent {
 public:
  explicit StateSpace(const StateSpaceConfig& config);

  std::string_view name() const override { return "ssm"; }

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  const StateSpaceConfig& config() const { return config_; }

  Linear z_proj, x_proj, B_proj, C_proj, dt_proj;
  CausalConv conv;
  Norm norm;
  Linear out_proj;
  mlx::core::array A_log, D, dt_bias;

 protected:
  /** From the sites x, B, C and dt, in that order. */
  DeltaInput input(
      const Pass::Arrays& rows,
      const std::optional<mlx::core::array>& initial) const override;

 private:
  StateSpaceConfig config_;
  Slot x_, B_, C_, dt_, z_, out_;
};

}  // namespace mlxterp::nn
