// models/glm.cpp: GLM-4 as "glm" (2024), its later version "glm4" and
// GLM-4.5 as "glm4_moe" (2025), Zhipu AI.

#include "models/deepseek_experts.h"

namespace mlxterp {

namespace {

DecoderConfig glm(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(
      config,
      {.kv_heads = 2, .d_head = 128, .context = 131'072, .eps = 1.5625e-7f});
  c.qkv_bias = config.boolean("attention_bias", true);
  c.rope = rope_of(config, c.d_head, c.context, {.part = 0.5f});
  c.rope.interleaved = true;
  return c;
}

// Norms on both sides of each part.
DecoderConfig glm4(const std::string& json) {
  auto c = glm(json);
  c.post_norms = true;
  return c;
}

// GLM-4.5 (2025): experts chosen as DeepSeek-V3 does.
DecoderConfig glm4_moe(const std::string& json) {
  const ConfigReader config(json);
  auto c =
      common_config(config, {.kv_heads = 8, .context = 131'072, .eps = 1e-5f});
  c.qkv_bias = config.boolean("attention_bias", false);
  c.rope = rope_of(config, c.d_head, c.context, {.part = 0.5f});
  if (config.boolean("use_qk_norm", false))
    c.qk_norm = nn::AttentionConfig::QkNorm::head;
  set_deepseek_experts(
      config,
      {.count = 128,
       .top_k = 8,
       .d_mlp = 1408,
       .n_shared = 1,
       .first_dense = 1},
      c);
  return c;
}

constexpr Rename glm4_names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_self_attn_layernorm", "ln1_post"},
    {"post_attention_layernorm", "ln2"},
    {"post_mlp_layernorm", "ln2_post"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
};

constexpr Fused fused[] = {{"mlp.gate_up_proj", gate_up}};
constexpr Fused moe_fused[] = {gate_up_stack};

}  // namespace

extern const Family glm_family, glm4_family, glm4_moe_family;
const Family glm_family = {"glm", glm, llama_names, fused};
const Family glm4_family = {"glm4", glm4, glm4_names, fused};
const Family glm4_moe_family = {
    "glm4_moe", glm4_moe, deepseek_names, moe_fused};

}  // namespace mlxterp
