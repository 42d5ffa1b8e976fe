// models/starcoder2.cpp: StarCoder2 (Lozhkov et al., 2024).

#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig starcoder2(const std::string& json) {
  const ConfigReader config(json);
  auto c =
      common_config(config, {.tied = true, .kv_heads = 2, .context = 4096});
  c.norm = layer_norm(config, "norm_epsilon", true);
  c.activation = activation_of(config, "hidden_act", "gelu_pytorch_tanh");
  c.gated = false;
  c.qkv_bias = c.attn_out_bias = c.mlp_bias = config.boolean("use_bias", true);
  c.windows = windows_of(config, c.n_layers, 0, [](int) { return true; });
  return c;
}

constexpr Rename names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"mlp.c_fc", "mlp.up_proj"},
    {"mlp.c_proj", "mlp.down_proj"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
};

}  // namespace

extern const Family starcoder2_family;
const Family starcoder2_family = {"starcoder2", starcoder2, names};

}  // namespace mlxterp
