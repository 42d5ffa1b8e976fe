// models/deepseek_experts.h: the fields that DeepSeek's mixtures of experts and
// those after them share.

#pragma once

#include "models/common.h"
#include "models/experts.h"

namespace mlxterp {

struct DeepseekExperts {
  /** 0: the config must say. */
  int count, top_k, d_mlp, n_shared;
  int n_groups = 1, top_groups = 1;
  float scale = 1.0f;
  bool normalize = true;
  int first_dense = 0;  ///< How many layers have an MLP instead.
};

/** Fills `moe`, by the routing of DeepSeek-V3 (2024): sigmoids, corrected, of
 * the best groups; and `dense` by first_k_dense_replace. */
void set_deepseek_experts(
    const ConfigReader& config,
    const DeepseekExperts& defaults,
    DecoderConfig& c);

/** Their names, those of Llama's and of attention with latents besides. */
inline constexpr std::array<Rename, 18> deepseek_names = {{
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"norm", "ln_final", /*at_start=*/true},
    {"lm_head", "unembed"},
    {"attn.q_a_layernorm", "attn.q_a_norm"},
    {"attn.kv_a_proj_with_mqa", "attn.kv_a_proj"},
    {"attn.kv_a_layernorm", "attn.kv_a_norm"},
    {"mlp.gate.e_score_correction_bias", "mlp.score_correction"},
    {"mlp.gate", "mlp.router"},
    {"mlp.shared_experts", "mlp.shared_expert"},
    {"switch_mlp", "experts"},  // stacked, as mlx-lm saves them
    {"experts.gate_up_proj", "experts.gate_up_proj.weight"},
    {"experts.down_proj", "experts.down_proj.weight"},
    {"attn.embed_q", "attn.k_b_proj"},  // by head, as mlx-lm saves them
    {"attn.unembed_out", "attn.v_b_proj"},
}};

}  // namespace mlxterp
