// models/stablelm.cpp: StableLM (Bellagente et al., 2024).

#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig stablelm(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.kv_heads = 32, .context = 4096});
  c.norm = layer_norm(config, "layer_norm_eps", true);
  c.qkv_bias = config.boolean("use_qkv_bias", false);
  c.parallel = config.boolean("use_parallel_residual", false);
  c.shared_norm = c.parallel;
  c.rope = rope_of(config, c.d_head, c.context, {.part = 0.25f});
  if (config.boolean("qk_layernorm", false))
    c.qk_norm = nn::AttentionConfig::QkNorm::each;
  c.qk_norm_config = layer_norm(config, "layer_norm_eps", false);
  return c;
}

constexpr Rename names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"q_layernorm", "q_norm"},
    {"q_norm.norms", "q_norm"},
    {"k_layernorm", "k_norm"},
    {"k_norm.norms", "k_norm"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
};

}  // namespace

extern const Family stablelm_family;
const Family stablelm_family = {"stablelm", stablelm, names};

}  // namespace mlxterp
