// mlxterp/nn/moe.h: a feed-forward part that chooses among experts.

#pragma once

#include "mlxterp/nn/linear.h"
#include "mlxterp/nn/mlp.h"

namespace mlxterp::nn {

struct MoEConfig {
  int d_model = 0;
  int d_mlp = 0;  ///< Of each expert.
  int n_experts = 0;
  int top_k = 0;
  /** The chosen experts' weights are made to sum to 1. */
  bool normalize = true;
  Activation activation = Activation::silu;
};

/** The experts of one layer, gated each. Parameters: gate_proj.weight and
 * up_proj.weight [expert, d_mlp, d_model], down_proj.weight [expert, d_model,
 * d_mlp]. */
struct Experts : Module {
  explicit Experts(const MoEConfig& config);

  /** Not called: which experts run is said by apply(). Throws usage. */
  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  /** [batch, pos, d_model] through the experts chosen, summed by weight, both
   * [batch, pos, k]. */
  mlx::core::array apply(
      const mlx::core::array& x,
      const mlx::core::array& chosen,
      const mlx::core::array& weights,
      Pass& pass) const;

  mlx::core::array gate_proj, up_proj, down_proj;
  Activation activation;
};

/**
 * A mixture of experts (Shazeer et al., 2017; Mixtral). Sites: router_logits
 * [batch, pos, expert]; expert_indices [batch, pos, k], the most probable
 * first; expert_weights [batch, pos, k], which multiply their outputs.
 */
class MoE : public Module {
 public:
  explicit MoE(const MoEConfig& config);

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  Linear router;
  Experts experts;

 private:
  MoEConfig config_;
  Slot router_logits_ = site("router_logits", {.width = config_.n_experts});
  Slot expert_indices_ = site("expert_indices", {.width = config_.top_k});
  Slot expert_weights_ = site("expert_weights", {.width = config_.top_k});
};

}  // namespace mlxterp::nn
