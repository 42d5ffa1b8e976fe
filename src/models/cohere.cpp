// models/cohere.cpp: Command R (Cohere, 2024) and Command A (2025), whose
// layers without a window do not rotate.

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig any_cohere(const ConfigReader& config, float theta) {
  auto c =
      common_config(config, {.tied = true, .theta = theta, .context = 8192});
  c.norm = layer_norm(config, "layer_norm_eps", false);
  c.parallel = c.shared_norm = true;
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.rope.interleaved = true;
  c.logit_scale = config.positive("logit_scale", 0.0625f);
  return c;
}

DecoderConfig cohere(const std::string& json) {
  const ConfigReader config(json);
  auto c = any_cohere(config, 500'000.0f);
  if (!config.null("use_qk_norm") && config.boolean("use_qk_norm", false))
    c.qk_norm = nn::AttentionConfig::QkNorm::each;
  c.qk_norm_config = c.norm;
  return c;
}

DecoderConfig cohere2(const std::string& json) {
  const ConfigReader config(json);
  auto c = any_cohere(config, 10000.0f);
  if (config.null("sliding_window"))
    fail(
        ErrorKind::bad_data,
        "[config.json] 'sliding_window' is null; only layers with a window "
        "rotate, give its length or leave it out");
  c.windows = windows_of(config, c.n_layers, 4096, [](int) { return true; });
  if (!config.has("layer_types")) {
    // Every fourth layer sees the whole prompt.
    const int every =
        config.integer_or("sliding_window_pattern", 4, 1, limits::layers);
    for (size_t i = 0; i < c.windows.size(); ++i)
      if ((i + 1) % static_cast<size_t>(every) == 0) c.windows[i] = 0;
  }
  for (const int window : c.windows)
    c.no_rope.push_back(window == 0);
  return c;
}

}  // namespace

extern const Family cohere_family, cohere2_family;
const Family cohere_family = {"cohere", cohere, llama_names};
const Family cohere2_family = {"cohere2", cohere2, llama_names};

}  // namespace mlxterp
