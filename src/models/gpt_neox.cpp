// models/gpt_neox.cpp: GPT-NeoX and Pythia (Black et al., 2022).

#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig gpt_neox(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config);
  c.n_kv_heads = c.n_heads;  // a field that others have means nothing here
  c.norm = layer_norm(config, "layer_norm_eps", true);
  c.parallel = config.boolean("use_parallel_residual", true);
  c.activation = activation_of(config, "hidden_act", "gelu");
  c.gated = false;
  c.mlp_bias = true;
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", true);
  // Its older names for the rotation.
  c.rope = rope_of(
      config,
      c.d_head,
      c.context,
      {.theta = config.positive("rotary_emb_base", 10000.0f),
       .part = config.positive("rotary_pct", 0.25f)});
  return c;
}

constexpr Rename names[] = {
    {"gpt_neox", ""},
    {"model", ""},  // mlx-lm's
    {"h", "layers"},
    {"embed_in", "embed"},
    {"input_layernorm", "ln1"},
    {"post_attention_layernorm", "ln2"},
    {"attention", "attn"},
    {"attn.query_key_value", "attn.qkv_proj"},
    {"attn.dense", "attn.o_proj"},
    {"mlp.dense_h_to_4h", "mlp.up_proj"},
    {"mlp.dense_4h_to_h", "mlp.down_proj"},
    {"final_layer_norm", "ln_final"},
    {"embed_out", "unembed"},
};

constexpr Fused fused[] = {{"attn.qkv_proj", q_k_v, Fused::per_kv_head}};

}  // namespace

extern const Family gpt_neox_family;
const Family gpt_neox_family = {"gpt_neox", gpt_neox, names, fused};

}  // namespace mlxterp
