// models/gemma.cpp: Gemma (2024), Gemma 2 (2024) and Gemma 3's text part
// (2025), Google DeepMind.

#include <algorithm>
#include <cmath>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

// What all three have in common; the later ones say more.
DecoderConfig any_gemma(const ConfigReader& config, CommonDefaults defaults) {
  defaults.tied = true;
  defaults.d_head = 256;
  auto c = common_config(config, defaults);
  c.norm.plus_one = true;
  c.qk_norm_config.plus_one = true;
  c.embed_scale = std::sqrt(static_cast<float>(c.d_model));
  // The first checkpoints say "gelu" and mean the tanh approximation.
  c.activation = nn::Activation::gelu_tanh;
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  if (config.has("use_bidirectional_attention") &&
      config.boolean("use_bidirectional_attention", false))
    fail(
        ErrorKind::bad_data,
        "[config.json] 'use_bidirectional_attention' is not supported");
  return c;
}

DecoderConfig gemma(const std::string& json) {
  return any_gemma(ConfigReader(json), {.kv_heads = 16, .context = 8192});
}

// Both later ones: norms behind each part, another scale, soft caps.
DecoderConfig later(const ConfigReader& config, int context) {
  auto c = any_gemma(config, {.kv_heads = 4, .context = context});
  c.activation =
      activation_of(config, "hidden_activation", "gelu_pytorch_tanh");
  c.post_norms = true;
  const float scalar = config.positive("query_pre_attn_scalar", 256.0f);
  c.attention_scale = 1.0f / std::sqrt(scalar);
  return c;
}

DecoderConfig gemma2(const std::string& json) {
  const ConfigReader config(json);
  auto c = later(config, 8192);
  c.windows =
      windows_of(config, c.n_layers, 4096, [](int i) { return i % 2 == 0; });
  c.attention_softcap = softcap_of(config, "attn_logit_softcapping", 50.0f);
  c.logit_softcap = softcap_of(config, "final_logit_softcapping", 30.0f);
  return c;
}

DecoderConfig gemma3(const std::string& json) {
  const ConfigReader config(json);
  auto c = later(config, 131'072);
  c.qk_norm = nn::AttentionConfig::QkNorm::head;
  c.windows = windows_of(config, c.n_layers, 4096, [](int) { return true; });
  if (!config.has("layer_types")) {
    // Every sixth layer sees the whole prompt.
    const int every = config.integer_or("sliding_window_pattern", 6, 1, 512);
    for (size_t i = 0; i < c.windows.size(); ++i)
      if ((i + 1) % static_cast<size_t>(every) == 0) c.windows[i] = 0;
  }
  c.logit_softcap = softcap_of(config, "final_logit_softcapping", 0);
  // Layers with a window turn by a theta of their own, never stretched.
  const int own =
      config.integer_or("max_position_embeddings", 131'072, 1, limits::dim);
  c.rope = rope_of(
      config, c.d_head, own, {.theta = 1'000'000.0f, .kind = "full_attention"});
  c.context = std::max(own, c.rope.max_positions);
  if (config.object("rope_parameters").has("sliding_attention")) {
    c.local_rope =
        rope_of(config, c.d_head, own, {.kind = "sliding_attention"});
  } else {
    c.local_rope = nn::Rope{
        .dims = c.d_head,
        .theta = config.positive("rope_local_base_freq", 10000.0f)};
  }
  return c;
}

constexpr Rename later_names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln1_post"},
    {"pre_feedforward_layernorm", "ln2"},
    {"post_feedforward_layernorm", "ln2_post"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
};

}  // namespace

extern const Family gemma_family, gemma2_family, gemma3_family;
const Family gemma_family = {"gemma", gemma, llama_names};
const Family gemma2_family = {"gemma2", gemma2, later_names};
const Family gemma3_family = {"gemma3_text", gemma3, later_names};

}  // namespace mlxterp
