// models/mixtral.cpp: mixtures of experts in Llama's shape: Mixtral (Jiang et
// al., 2024) and OLMoE (Muennighoff et al., 2024).

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

nn::MoEConfig experts(
    const ConfigReader& config,
    const DecoderConfig& c,
    const char* count,
    int usual_count,
    int usual_top_k) {
  const int n = config.integer_or(count, usual_count, 1, limits::heads);
  return {
      .d_model = c.d_model,
      .d_mlp = c.d_mlp,
      .n_experts = n,
      .top_k = config.integer_or("num_experts_per_tok", usual_top_k, 1, n),
      .normalize = true,
      .activation = c.activation,
  };
}

DecoderConfig mixtral(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(
      config,
      {.theta = 1'000'000.0f, .kv_heads = 8, .context = 131'072, .eps = 1e-5f});
  c.windows = windows_of(config, c.n_layers, 0, [](int) { return true; });
  c.moe = experts(config, c, "num_local_experts", 8, 2);
  return c;
}

DecoderConfig olmoe(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.context = 4096, .eps = 1e-5f});
  if (config.has("clip_qkv")) c.clip_qkv = config.positive("clip_qkv");
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.qk_norm = nn::AttentionConfig::QkNorm::together;
  c.moe = experts(config, c, "num_experts", 64, 8);
  c.moe->normalize = config.boolean("norm_topk_prob", false);
  return c;
}

constexpr Rename mixtral_names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
    {"block_sparse_moe", "mlp"},
    {"mlp.gate", "mlp.router"},
    {"switch_mlp", "experts"},  // stacked, as mlx-lm saves them
    {"w1", "gate_proj"},
    {"w2", "down_proj"},
    {"w3", "up_proj"},
};

}  // namespace

extern const Family mixtral_family, olmoe_family;
const Family mixtral_family = {"mixtral", mixtral, mixtral_names};
const Family olmoe_family = {"olmoe", olmoe, mixtral_names};

}  // namespace mlxterp
