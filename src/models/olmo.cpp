// models/olmo.cpp: OLMo (Groeneveld et al., 2024), whose norms learn nothing.

#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig olmo(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config);
  c.norm = {.kind = nn::NormConfig::Kind::layer, .eps = 1e-5f, .gain = false};
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  if (config.has("clip_qkv")) c.clip_qkv = config.positive("clip_qkv");
  return c;
}

}  // namespace

extern const Family olmo_family;
const Family olmo_family = {"olmo", olmo, llama_names};

}  // namespace mlxterp
