// models/variants.cpp: families that are Llama's shape but for a few fields:
// OLMo 2 (OLMo team, 2024), Granite (IBM, 2024), SmolLM3 (Hugging Face, 2025),
// StableLM (Bellagente et al., 2024), StarCoder2 (Lozhkov et al., 2024) and
// Command R (Cohere, 2024).

#include "core/fail.h"
#include "models/common.h"

namespace mlxterp {

namespace {

using QkNorm = nn::AttentionConfig::QkNorm;

nn::NormConfig layer_norm(
    const ConfigReader& config, const char* field, bool bias) {
  return {
      .kind = nn::NormConfig::Kind::layer,
      .eps = config.positive(field, 1e-5f),
      .bias = bias};
}

DecoderConfig olmo2(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config);
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.pre_norms = false;
  c.post_norms = true;
  c.qk_norm = QkNorm::together;
  return c;
}

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

DecoderConfig smollm3(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.tied = true});
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.mlp_bias = config.boolean("mlp_bias", false);
  c.rope = rope_of(config, c.d_head, c.context, {.theta = 2'000'000.0f});
  // The list says 1 where a layer rotates.
  const int every = config.integer_or("no_rope_layer_interval", 4, 1, 512);
  const auto listed = config.has("no_rope_layers")
                          ? config.json()["no_rope_layers"]
                          : nlohmann::json();
  if (!listed.is_null() &&
      (!listed.is_array() || listed.size() != static_cast<size_t>(c.n_layers)))
    fail(
        ErrorKind::bad_data,
        "[config.json] 'no_rope_layers' is no list of {} layers",
        c.n_layers);
  for (int i = 0; i < c.n_layers; ++i)
    c.no_rope.push_back(
        listed.is_null() ? (i + 1) % every == 0
                         : listed[static_cast<size_t>(i)] == 0);
  if (!config.boolean("use_sliding_window", false)) return c;
  c.windows = windows_of(config, c.n_layers, [](int) { return true; });
  if (config.has("layer_types")) return c;
  for (size_t i = 0; i < c.windows.size(); ++i)
    if (!c.no_rope[i]) c.windows[i] = 0;
  return c;
}

DecoderConfig stablelm(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config);
  c.norm = layer_norm(config, "layer_norm_eps", true);
  c.qkv_bias = config.boolean("use_qkv_bias", false);
  c.parallel = config.boolean("use_parallel_residual", false);
  c.shared_norm = c.parallel;
  c.rope = rope_of(config, c.d_head, c.context, {.part = 0.25f});
  if (config.boolean("qk_layernorm", false)) c.qk_norm = QkNorm::each;
  c.qk_norm_config = layer_norm(config, "layer_norm_eps", false);
  return c;
}

DecoderConfig starcoder2(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.tied = true, .kv_heads = 2});
  c.norm = layer_norm(config, "norm_epsilon", true);
  c.activation = activation_of(config, "hidden_act", "gelu_pytorch_tanh");
  c.gated = false;
  c.qkv_bias = c.attn_out_bias = c.mlp_bias = config.boolean("use_bias", true);
  c.windows = windows_of(config, c.n_layers, [](int) { return true; });
  return c;
}

DecoderConfig cohere(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.tied = true, .theta = 500'000.0f});
  c.norm = layer_norm(config, "layer_norm_eps", false);
  c.parallel = c.shared_norm = true;
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.rope.interleaved = true;
  c.logit_scale = config.positive("logit_scale", 0.0625f);
  if (config.boolean("use_qk_norm", false)) c.qk_norm = QkNorm::each;
  c.qk_norm_config = c.norm;
  return c;
}

constexpr Rename olmo2_names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln1_post"},
    {"post_feedforward_layernorm", "ln2_post"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
};

constexpr Rename stablelm_names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"q_layernorm", "q_norm"},
    {"q_norm.norms", "q_norm"},
    {"k_layernorm", "k_norm"},
    {"k_norm.norms", "k_norm"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
};

constexpr Rename starcoder2_names[] = {
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

extern const Family olmo2_family, granite_family, smollm3_family,
    stablelm_family, starcoder2_family, cohere_family;
const Family olmo2_family = {"olmo2", olmo2, olmo2_names};
const Family granite_family = {"granite", granite, llama_names};
const Family smollm3_family = {"smollm3", smollm3, llama_names};
const Family stablelm_family = {"stablelm", stablelm, stablelm_names};
const Family starcoder2_family = {"starcoder2", starcoder2, starcoder2_names};
const Family cohere_family = {"cohere", cohere, llama_names};

}  // namespace mlxterp
