// models/qwen.cpp: Qwen2 (Yang et al., 2024), Qwen3 (2025) and its mixture of
// experts.

#include <algorithm>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"

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
  const char* experts = config.json().contains("num_experts")
                            ? "num_experts"
                            : "num_local_experts";
  c.moe = {
      .d_model = c.d_model,
      .d_mlp =
          config.integer_or("moe_intermediate_size", 768, 1, limits::d_mlp),
      .n_experts = config.integer_or(experts, 128, 1, limits::heads),
      .normalize = config.boolean("norm_topk_prob", false),
      .activation = c.activation,
  };
  c.moe->top_k =
      config.integer_or("num_experts_per_tok", 8, 1, c.moe->n_experts);
  // Every decoder_sparse_step-th layer chooses, unless it is listed as an MLP.
  const int step =
      config.integer_or("decoder_sparse_step", 1, 1, limits::layers);
  c.dense.assign(static_cast<size_t>(c.n_layers), false);
  for (int i = 0; i < c.n_layers; ++i)
    c.dense[static_cast<size_t>(i)] = (i + 1) % step != 0;
  if (config.has("mlp_only_layers") &&
      !config.json()["mlp_only_layers"].is_array())
    fail(
        ErrorKind::bad_data,
        "[config.json] 'mlp_only_layers' is not a list of layers");
  if (config.has("mlp_only_layers"))
    for (const auto& layer : config.json()["mlp_only_layers"]) {
      if (!layer.is_number_unsigned() ||
          layer.get<uint64_t>() >= c.dense.size())
        fail(
            ErrorKind::bad_data,
            "[config.json] 'mlp_only_layers' names {}; the model has {} layers",
            printable(layer.dump()),
            c.n_layers);
      c.dense[layer.get<size_t>()] = true;
    }
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

extern const Family qwen2_family, qwen3_family, qwen3_moe_family;
const Family qwen2_family = {"qwen2", qwen2, llama_names};
const Family qwen3_family = {"qwen3", qwen3, llama_names};
const Family qwen3_moe_family = {"qwen3_moe", qwen3_moe, moe_names};

}  // namespace mlxterp
