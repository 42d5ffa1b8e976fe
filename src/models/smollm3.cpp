// models/smollm3.cpp: SmolLM3 (Hugging Face, 2025): some layers do not
// rotate.

#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig smollm3(const std::string& json) {
  const ConfigReader config(json);
  constexpr float theta = 2'000'000.0f;
  auto c = common_config(
      config, {.tied = true, .theta = theta, .kv_heads = 4, .context = 32'768});
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.mlp_bias = config.boolean("mlp_bias", false);
  // The list says 1 where a layer rotates.
  const int every =
      config.integer_or("no_rope_layer_interval", 4, 1, limits::layers);
  if (config.has("no_rope_layers")) {
    c.no_rope =
        config.booleans("no_rope_layers", static_cast<size_t>(c.n_layers));
    c.no_rope.flip();
  } else {
    for (int i = 0; i < c.n_layers; ++i)
      c.no_rope.push_back((i + 1) % every == 0);
  }
  if (!config.boolean("use_sliding_window", false)) return c;
  c.windows = windows_of(config, c.n_layers, 0, [](int) { return true; });
  if (config.has("layer_types")) return c;
  for (size_t i = 0; i < c.windows.size(); ++i)
    if (!c.no_rope[i]) c.windows[i] = 0;
  return c;
}

}  // namespace

extern const Family smollm3_family;
const Family smollm3_family = {"smollm3", smollm3, llama_names};

}  // namespace mlxterp
