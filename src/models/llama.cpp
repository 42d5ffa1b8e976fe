// models/llama.cpp: Llama (Touvron et al., 2023) and what shares its shape:
// SmolLM2, Mistral (Jiang et al., 2023), which adds a window, and Arcee
// (2025), whose MLP has no gate.

#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig llama(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config);
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.mlp_bias = config.boolean("mlp_bias", false);
  return c;
}

DecoderConfig mistral(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.kv_heads = 8, .context = 131'072});
  c.windows = windows_of(config, c.n_layers, 4096, [](int) { return true; });
  return c;
}

DecoderConfig arcee(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.context = 4096, .eps = 1e-5f});
  c.activation = activation_of(config, "hidden_act", "relu2");
  c.gated = false;
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.mlp_bias = config.boolean("mlp_bias", false);
  return c;
}

}  // namespace

extern const Family llama_family, mistral_family, arcee_family;
const Family llama_family = {"llama", llama, llama_names};
const Family mistral_family = {"mistral", mistral, llama_names};
const Family arcee_family = {"arcee", arcee, llama_names};

}  // namespace mlxterp
