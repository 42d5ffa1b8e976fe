// models/qwen.cpp: Qwen2 (Yang et al., 2024), Qwen3 (2025) and their
// mixtures of experts.

#include <algorithm>

#include "mlxterp/core/limits.h"
#include "models/qwen_experts.h"

namespace mlxterp {

namespace {

// Layers from max_window_layers on have the window, where one is used at all.
std::vector<int> windows(const ConfigReader& config, int n_layers) {
  if (!config.boolean("use_sliding_window", false)) return {};
  auto all = windows_of(config, n_layers, 4096, [](int) { return true; });
  if (all.empty() || config.has("layer_types")) return all;
  const int first =
      config.integer_or("max_window_layers", 28, 0, limits::layers);
  std::fill_n(all.begin(), std::min(first, n_layers), 0);
  return all;
}

DecoderConfig qwen2(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.kv_heads = 32, .context = 32'768});
  c.qkv_bias = true;
  c.windows = windows(config, c.n_layers);
  return c;
}

DecoderConfig any_qwen3(
    const ConfigReader& config, const CommonDefaults& defaults) {
  auto c = common_config(config, defaults);
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.qk_norm = nn::AttentionConfig::QkNorm::head;
  return c;
}

DecoderConfig qwen3(const std::string& json) {
  const ConfigReader config(json);
  auto c =
      any_qwen3(config, {.kv_heads = 32, .d_head = 128, .context = 32'768});
  c.windows = windows(config, c.n_layers);
  return c;
}

DecoderConfig qwen3_moe(const std::string& json) {
  const ConfigReader config(json);
  auto c = any_qwen3(config, {.kv_heads = 4, .context = 32'768});
  // Here every layer has the window, where one is used.
  if (config.boolean("use_sliding_window", false))
    c.windows = windows_of(config, c.n_layers, 4096, [](int) { return true; });
  const char* count = config.json().contains("num_experts")
                          ? "num_experts"
                          : "num_local_experts";
  set_qwen_experts(
      config,
      {.count_field = count,
       .count = 128,
       .top_k = 8,
       .d_mlp = 768,
       .normalize = false},
      c);
  return c;
}

// Qwen1.5-MoE and Qwen2-57B-A14B (2024).
DecoderConfig qwen2_moe(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.kv_heads = 16, .context = 32'768});
  c.qkv_bias = config.boolean("qkv_bias", true);
  // Every other layer up to max_window_layers, where windows are used.
  if (config.boolean("use_sliding_window", false)) {
    c.windows =
        windows_of(config, c.n_layers, 4096, [](int i) { return i % 2 == 0; });
    const auto end = static_cast<size_t>(
        config.integer_or("max_window_layers", 28, 0, limits::layers));
    if (!config.has("layer_types"))
      for (size_t i = end; i < c.windows.size(); ++i)
        c.windows[i] = 0;
  }
  set_qwen_experts(
      config,
      {.count_field = "num_experts",
       .count = 60,
       .top_k = 4,
       .d_mlp = 1408,
       .normalize = false},
      c);
  c.moe->d_shared = config.integer_or(
      "shared_expert_intermediate_size", 5632, 1, limits::d_mlp);
  c.moe->shared_gate = true;
  return c;
}

constexpr Rename moe_names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
    {"mlp.gate", "mlp.router"},
    {"switch_mlp", "experts"},  // stacked, as mlx-lm saves them
};

}  // namespace

extern const Family qwen2_family, qwen3_family, qwen2_moe_family,
    qwen3_moe_family;
const Family qwen2_family = {"qwen2", qwen2, llama_names};
const Family qwen3_family = {"qwen3", qwen3, llama_names};
const Family qwen2_moe_family = {"qwen2_moe", qwen2_moe, moe_names};
const Family qwen3_moe_family = {"qwen3_moe", qwen3_moe, moe_names};

}  // namespace mlxterp
