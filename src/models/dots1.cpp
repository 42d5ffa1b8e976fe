// models/dots1.cpp: dots.llm1 (2025, rednote).

#include "mlxterp/core/limits.h"
#include "models/deepseek_experts.h"

namespace mlxterp {

namespace {

DecoderConfig dots1(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.kv_heads = 32});
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.qk_norm = nn::AttentionConfig::QkNorm::head;
  // Layers from max_window_layers on.
  const auto first = static_cast<size_t>(
      config.integer_or("max_window_layers", 62, 0, limits::layers));
  c.windows = windows_of(config, c.n_layers, 4096, [](int) { return true; });
  if (!config.has("layer_types"))
    for (size_t i = 0; i < std::min(first, c.windows.size()); ++i)
      c.windows[i] = 0;
  set_deepseek_experts(
      config,
      {.count = 0,
       .top_k = 0,
       .d_mlp = 1408,
       .n_shared = 0,
       .normalize = false},
      c);
  return c;
}

constexpr Fused fused[] = {gate_up_stack};

}  // namespace

extern const Family dots1_family;
const Family dots1_family = {"dots1", dots1, deepseek_names, fused};

}  // namespace mlxterp
