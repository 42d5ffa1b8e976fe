// models/granite.cpp: Granite (IBM, 2024): Llama with multipliers.

#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig granite(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config);
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.mlp_bias = config.boolean("mlp_bias", false);
  c.embed_factor = config.positive("embedding_multiplier", 1.0f);
  c.residual_scale = config.positive("residual_multiplier", 1.0f);
  c.attention_scale = config.positive("attention_multiplier", 1.0f);
  c.logit_scale = 1.0f / config.positive("logits_scaling", 1.0f);
  return c;
}

}  // namespace

extern const Family granite_family;
const Family granite_family = {"granite", granite, llama_names};

}  // namespace mlxterp
