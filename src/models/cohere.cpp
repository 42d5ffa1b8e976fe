// models/cohere.cpp: Command R (Cohere, 2024).

#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig cohere(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(
      config, {.tied = true, .theta = 500'000.0f, .context = 8192});
  c.norm = layer_norm(config, "layer_norm_eps", false);
  c.parallel = c.shared_norm = true;
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.rope.interleaved = true;
  c.logit_scale = config.positive("logit_scale", 0.0625f);
  if (!config.null("use_qk_norm") && config.boolean("use_qk_norm", false))
    c.qk_norm = nn::AttentionConfig::QkNorm::each;
  c.qk_norm_config = c.norm;
  return c;
}

}  // namespace

extern const Family cohere_family;
const Family cohere_family = {"cohere", cohere, llama_names};

}  // namespace mlxterp
