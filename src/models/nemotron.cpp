// models/nemotron.cpp: Nemotron 3 and 4, Minitron (Parmar et al., 2024).

#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig nemotron(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.context = 4096});
  c.norm = layer_norm(config, "norm_eps", true);
  c.norm.plus_one = true;
  c.activation = activation_of(config, "hidden_act", "relu2");
  c.gated = false;
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.mlp_bias = config.boolean("mlp_bias", false);
  c.rope = rope_of(config, c.d_head, c.context, {.part = 0.5f});
  return c;
}

}  // namespace

extern const Family nemotron_family;
const Family nemotron_family = {"nemotron", nemotron, llama_names};

}  // namespace mlxterp
