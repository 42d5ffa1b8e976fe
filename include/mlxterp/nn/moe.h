// mlxterp/nn/moe.h: a feed-forward part that chooses among experts.

#pragma once

#include <optional>

#include "mlxterp/nn/linear.h"
#include "mlxterp/nn/mlp.h"

namespace mlxterp::nn {

/** The gated product of gpt-oss, (up + 1) * gate * sigmoid(slope * gate), the
 * gate at most `limit` and up in +-limit. */
struct ClampedSwiglu {
  float slope = 1.702f;
  float limit = 7.0f;
};

/** How a token chooses its experts: the top_k of the softmax of its logits,
 * unless other things are said. */
struct Routing {
  /** Scores are each logit's sigmoid (DeepSeek-V3, 2024). */
  bool sigmoid = false;
  /** A number of each expert's is added to its score when the choice is made,
   * and not to what its output is multiplied with. */
  bool corrected = false;
  /** Only the experts of the best top_groups of n_groups of neighbours are
   * chosen from: by the best score of each, or the sum of its two best. */
  int n_groups = 1, top_groups = 1;
  bool by_two = false;
  float epsilon = 0.0f;  ///< Added to the sum that weights are divided by.
  float scale = 1.0f;    ///< Of the weights.
};

struct MoEConfig {
  int d_model = 0;
  int d_mlp = 0;  ///< Of each expert.
  int n_experts = 0;
  int top_k = 0;
  /** The chosen experts' weights are made to sum to 1. */
  bool normalize = true;
  bool weigh_input = false;  ///< Weights multiply what the experts read.
  Routing routing = {};
  Activation activation = Activation::silu;
  std::optional<ClampedSwiglu> swiglu = {};  ///< In place of it.
  bool bias = false;                         ///< Of the experts.
  bool router_bias = false;
  /** Of an expert beside them that every token goes through; 0: none. */
  int d_shared = 0;
  bool shared_bias = false;
  bool shared_gate = false;  ///< Times the sigmoid of a number of the token's.
  /** Of what the experts read, and of what the router does. */
  std::optional<NormConfig> norm = {}, router_norm = {};
  float router_scale = 1.0f;  ///< Of what the router reads, behind its norm.
  bool expert_scale = false;  ///< Each expert's weight times a number of its.
};

/** The experts of one layer, gated each. Parameters: gate_proj.weight and
 * up_proj.weight [expert, d_mlp, d_model], down_proj.weight [expert, d_model,
 * d_mlp]; where they have biases, each one's .bias [expert, d_out]. */
struct Experts : Module {
  explicit Experts(const MoEConfig& config);

  /** Not called: which experts run is said by apply(). Throws usage. */
  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  /** [batch, pos, d_model] through the experts chosen, summed by weight, both
   * [batch, pos, k]. The site input is before the weights, where they multiply
   * it. */
  mlx::core::array apply(
      const mlx::core::array& x,
      const mlx::core::array& chosen,
      const mlx::core::array& weights,
      Pass& pass) const;

  /** A matrix of each expert. */
  struct Projection {
    Matrix weight;
    std::optional<mlx::core::array> bias;
  };
  Projection gate_proj, up_proj, down_proj;

 private:
  void add(const char* name, Projection& projection);

  MoEConfig config_;
};

/**
 * A mixture of experts (Shazeer et al., 2017; Mixtral). Sites: router_logits
 * [batch, pos, expert]; router_scores, likewise, what becomes of them by
 * softmax or sigmoid, float32; router_choice, likewise, by which experts are
 * chosen, where scores are corrected or groups left out, whose experts have
 * -1e9; expert_indices [batch, pos, k], the best first; expert_weights [batch,
 * pos, k], which multiply their outputs, or their inputs. Some have a
 * shared_expert, which is added; the sigmoid of what shared_expert_gate gives,
 * [batch, pos, 1], says how much of it. Some have ln and router_norm, on what
 * experts and router read, and parameters expert_scale and score_correction
 * [expert].
 */
class MoE : public Module {
 public:
  explicit MoE(const MoEConfig& config);

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  Linear router;
  Experts experts;
  std::optional<MLP> shared_expert;
  std::optional<Linear> shared_expert_gate;
  std::optional<Norm> ln, router_norm;
  std::optional<mlx::core::array> expert_scale, score_correction;

 private:
  /** Its logits, [batch, pos, expert]. */
  mlx::core::array routed(const mlx::core::array& x, Pass& pass) const;

  /** What the choice is made by, from scores, [batch, pos, expert]. */
  mlx::core::array eligible(const mlx::core::array& scores) const;

  MoEConfig config_;
  Slot router_logits_ = site("router_logits", {.width = config_.n_experts});
  Slot router_scores_ = site("router_scores", {.width = config_.n_experts});
  std::optional<Slot> router_choice_;
  Slot expert_indices_ = site("expert_indices", {.width = config_.top_k});
  Slot expert_weights_ = site("expert_weights", {.width = config_.top_k});
};

}  // namespace mlxterp::nn
