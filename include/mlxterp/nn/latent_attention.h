// mlxterp/nn/latent_attention.h: attention whose keys and values come from one
// small vector a position.

#pragma once

#include "mlxterp/nn/attention.h"

namespace mlxterp::nn {

struct LatentConfig {
  int q_rank = 0;   ///< Of the queries' latent; 0: q_proj makes them at once.
  int kv_rank = 0;  ///< Of that of keys and values.
  int d_rope = 0;   ///< The last dimensions of a head, which are rotated.
  int d_value = 0;
  bool bias = false;     ///< Of the projections to latents.
  NormConfig norm = {};  ///< Of both latents.
};

/**
 * Multi-head latent attention (DeepSeek-V2, 2024): queries are q_b_proj of a
 * latent, q_a_norm(q_a_proj(x)), and so are keys and values of another one, but
 * for the rotated part of the keys, which all heads share. Sites, beside those
 * of Attention and of q_proj or q_a_proj, q_a_norm and q_b_proj, and of
 * kv_a_proj, kv_a_norm, k_b_proj and v_b_proj:
 *
 *     q_latent    [batch, pos, q_rank], behind its norm, where there is one
 *     kv_latent   [batch, pos, kv_rank], likewise
 *     k_pe        [batch, pos, d_rope], the shared part before its rotation
 *
 * q and k hold the part that is not rotated first, k [batch, pos, head, d_head]
 * of every head; v and z have d_value.
 */
class LatentAttention : public Attention {
 public:
  /** Of `config`, rope.dims and n_kv_heads do not count. */
  LatentAttention(const AttentionConfig& config, const LatentConfig& latent);

  const LatentConfig& latent() const { return latent_; }

  std::optional<Linear> q_a_proj;
  std::optional<Norm> q_a_norm;
  std::optional<Linear> q_b_proj;
  Linear kv_a_proj;
  Norm kv_a_norm;
  Linear k_b_proj, v_b_proj;

 protected:
  mlx::core::array project_q(
      const mlx::core::array& x, Pass& pass) const override;
  KeysAndValues project_kv(
      const mlx::core::array& x, Pass& pass) const override;

 private:
  LatentConfig latent_;
  Slot k_pe_ = {};
};

}  // namespace mlxterp::nn
