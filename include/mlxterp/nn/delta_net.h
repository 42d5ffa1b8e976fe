// mlxterp/nn/delta_net.h: a recurrence in place of attention.

#pragma once

#include "mlxterp/nn/causal_conv.h"
#include "mlxterp/nn/linear.h"
#include "mlxterp/nn/mlp.h"
#include "mlxterp/nn/recurrent.h"

namespace mlxterp::nn {

struct DeltaNetConfig {
  int d_model = 0;
  int n_key_heads = 0;    ///< Of queries and keys.
  int n_value_heads = 0;  ///< A multiple of them; head h reads key head h *
                          ///< n_key / n_value.
  int d_key = 0, d_value = 0;  ///< Of a head.
  int conv_width = 0;
  Activation activation = Activation::silu;  ///< Behind the convolution.
  NormConfig norm = {};                      ///< Of what heads read.
};

/**
 * The gated delta rule (Yang et al., 2024, "Gated Delta Networks"): each head
 * has a memory S [d_key, d_value] that fades, is corrected where it errs about
 * the new value and is read by the query. All but the projections runs in
 * float32:
 *
 *     S <- exp(g) S;  S <- S + beta k (v - k S);  out = q S
 *
 * with q and k of length 1 (q then / sqrt(d_key)), and out_proj reads norm(out)
 * silu(z). Sites, beside those of q_proj, k_proj, v_proj, z_proj, b_proj,
 * a_proj, conv (over q, k and v side by side), norm and out_proj:
 *
 *     q, k      [batch, pos, key_head, d_key], behind convolution and
 *               activation, before they get length 1
 *     v         [batch, pos, head, d_value], likewise
 *     g         [batch, pos, head, 1], the logarithm of what is left of the
 *               memory, -exp(A_log) softplus(a + dt_bias); float32
 *     beta      [batch, pos, head, 1], sigmoid(b)
 *     z         [batch, pos, head, d_value]
 *     state     [batch, pos, head, d_key, d_value], S behind the position;
 *               float32, offered. Where an edit differs from what was computed,
 *               it is what the position reads and the next one goes on from
 *     out       [batch, pos, head, d_value]
 *
 * Parameters, beside those of its parts: A_log, dt_bias [head]. A KvCache keeps
 * S, and what the convolution goes on from.
 */
class DeltaNet : public Recurrent {
 public:
  explicit DeltaNet(const DeltaNetConfig& config);

  std::string_view name() const override { return "delta"; }

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  const DeltaNetConfig& config() const { return config_; }

  Linear q_proj, k_proj, v_proj, z_proj, b_proj, a_proj;
  CausalConv conv;
  Norm norm;
  Linear out_proj;
  mlx::core::array A_log, dt_bias;

 protected:
  /** From the sites q, k, v, g and beta, in that order. */
  DeltaInput input(
      const Pass::Arrays& rows,
      const std::optional<mlx::core::array>& initial) const override;

 private:
  SiteTraits traits(int heads, int width) const;

  DeltaNetConfig config_;
  Slot q_, k_, v_, g_, beta_, z_, out_;
};

}  // namespace mlxterp::nn
