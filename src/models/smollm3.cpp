// models/smollm3.cpp: SmolLM3 (Hugging Face, 2025): some layers do not
// rotate.

#include "core/fail.h"
#include "models/common.h"

namespace mlxterp {

namespace {

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

}  // namespace

extern const Family smollm3_family;
const Family smollm3_family = {"smollm3", smollm3, llama_names};

}  // namespace mlxterp
