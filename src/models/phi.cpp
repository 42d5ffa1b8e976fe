// models/phi.cpp: Phi-1.5 and Phi-2 (Li et al., 2023), Phi-3 (Abdin et al.,
// 2024).

#include <algorithm>

#include "core/fail.h"
#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig phi(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config);
  c.norm = layer_norm(config, "layer_norm_eps", true);
  c.parallel = c.shared_norm = true;
  c.activation = activation_of(config, "hidden_act", "gelu_new");
  c.gated = false;
  c.qkv_bias = c.attn_out_bias = c.mlp_bias = c.unembed_bias = true;
  c.rope = rope_of(config, c.d_head, c.context, {.part = 0.5f});
  if (config.boolean("qk_layernorm", false))
    c.qk_norm = nn::AttentionConfig::QkNorm::head;
  c.qk_norm_config = c.norm;
  return c;
}

DecoderConfig phi3(const std::string& json) {
  const ConfigReader config(json);
  if (config.null("partial_rotary_factor"))
    fail(
        ErrorKind::bad_data,
        "[config.json] 'partial_rotary_factor' is null; give a number or leave "
        "it out");
  constexpr int usual = 4096;
  auto c = common_config(config, {.context = usual, .eps = 1e-5f});
  c.rope = rope_of(config, c.d_head, c.context, {.original = usual});
  c.context = std::max(c.context, c.rope.max_positions);
  c.windows = windows_of(config, c.n_layers, 0, [](int) { return true; });
  return c;
}

constexpr Rename phi_names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"attn.dense", "attn.o_proj"},
    {"q_layernorm", "q_norm"},
    {"k_layernorm", "k_norm"},
    {"mlp.fc1", "mlp.up_proj"},
    {"mlp.fc2", "mlp.down_proj"},
    {"final_layernorm", "ln_final"},
    {"lm_head", "unembed"},
};

constexpr Fused phi3_fused[] = {
    {"attn.qkv_proj", q_k_v}, {"mlp.gate_up_proj", gate_up}};

}  // namespace

extern const Family phi_family, phi3_family;
const Family phi_family = {"phi", phi, phi_names};
const Family phi3_family = {"phi3", phi3, llama_names, phi3_fused};

}  // namespace mlxterp
