// models/seed_oss.cpp: Seed-OSS (ByteDance, 2025): Llama with biases of its own
// choice.

#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig seed_oss(const std::string& json) {
  const ConfigReader config(json);
  auto c =
      common_config(config, {.kv_heads = 8, .d_head = 128, .context = 524'288});
  c.qkv_bias = config.boolean("attention_bias", true);
  c.attn_out_bias = config.boolean("attention_out_bias", false);
  c.mlp_bias = config.boolean("mlp_bias", false);
  return c;
}

}  // namespace

extern const Family seed_oss_family;
const Family seed_oss_family = {"seed_oss", seed_oss, llama_names};

}  // namespace mlxterp
