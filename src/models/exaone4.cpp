// models/exaone4.cpp: EXAONE 4 (LG AI Research, 2025): norms behind each part,
// as OLMo 2 has them, and a rotation only in layers with a window.

#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig exaone4(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config, {.kv_heads = 32, .eps = 1e-5f});
  c.pre_norms = false;
  c.post_norms = true;
  c.qk_norm = nn::AttentionConfig::QkNorm::head;
  c.windows = windows_of(config, c.n_layers, 4096, [](int) { return true; });
  if (!c.windows.empty() && !config.has("layer_types")) {
    const auto every = static_cast<size_t>(
        config.integer_or("sliding_window_pattern", 4, 1, limits::layers));
    for (size_t i = every - 1; i < c.windows.size(); i += every)
      c.windows[i] = 0;
  }
  for (const int window : c.windows)
    c.no_rope.push_back(window == 0);
  return c;
}

}  // namespace

extern const Family exaone4_family;
const Family exaone4_family = {"exaone4", exaone4, post_norm_names};

}  // namespace mlxterp
