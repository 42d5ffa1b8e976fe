// models/olmo2.cpp: OLMo 2 (OLMo team, 2024), whose norms stand behind
// each part.

#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig olmo2(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.eps = 1e-5f});
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.pre_norms = false;
  c.post_norms = true;
  c.qk_norm = nn::AttentionConfig::QkNorm::together;
  return c;
}

constexpr Rename names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln1_post"},
    {"post_feedforward_layernorm", "ln2_post"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
};

}  // namespace

extern const Family olmo2_family;
const Family olmo2_family = {"olmo2", olmo2, names};

}  // namespace mlxterp
