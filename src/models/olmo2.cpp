// models/olmo2.cpp: OLMo 2 (OLMo team, 2024), whose norms stand behind each
// part, and OLMo 3 (2025), which adds windows.

#include <algorithm>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig any_olmo(const ConfigReader& config) {
  auto c = common_config(config, {.eps = 1e-5f});
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.pre_norms = false;
  c.post_norms = true;
  c.qk_norm = nn::AttentionConfig::QkNorm::together;
  return c;
}

DecoderConfig olmo2(const std::string& json) {
  return any_olmo(ConfigReader(json));
}

DecoderConfig olmo3(const std::string& json) {
  const ConfigReader config(json);
  constexpr float theta = 500'000.0f;
  auto c = any_olmo(config);
  if (config.null("sliding_window"))
    fail(
        ErrorKind::bad_data,
        "[config.json] 'sliding_window' is null, but OLMo 3 needs one; give "
        "the number, or leave it out for 4096");
  c.windows =
      windows_of(config, c.n_layers, 4096, [](int i) { return i % 4 != 3; });
  // Layers with a window turn by a rotation of their own, as a rule one that
  // is not stretched.
  const int own =
      config.integer_or("max_position_embeddings", 2048, 1, limits::dim);
  c.rope = rope_of(
      config, c.d_head, own, {.theta = theta, .kind = "full_attention"});
  c.context = std::max(own, c.rope.max_positions);
  if (config.object("rope_parameters").has("sliding_attention")) {
    c.local_rope = rope_of(
        config, c.d_head, own, {.theta = theta, .kind = "sliding_attention"});
  } else {
    c.local_rope.emplace();
    c.local_rope->dims = c.d_head;
    c.local_rope->theta = config.positive("rope_theta", theta);
  }
  return c;
}

}  // namespace

extern const Family olmo2_family, olmo3_family;
const Family olmo2_family = {"olmo2", olmo2, post_norm_names};
const Family olmo3_family = {"olmo3", olmo3, post_norm_names};

}  // namespace mlxterp
