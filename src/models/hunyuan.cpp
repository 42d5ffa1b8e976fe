// models/hunyuan.cpp: Hunyuan's dense models (Tencent, 2025): Llama whose
// queries and keys are normed behind the rotation.

#include <cmath>

#include "core/fail.h"
#include "models/common.h"

namespace mlxterp {

namespace {

// With "alpha" the scaling called dynamic is none: it stretches theta, whatever
// the prompt's length.
ConfigReader without_alpha(const std::string& json) {
  const ConfigReader config(json);
  auto fields = config.json();
  for (const char* place : {"rope_scaling", "rope_parameters"}) {
    const auto rope = config.object(place);
    if (!rope.has("alpha") || rope.json()["alpha"] == 0) continue;
    if (rope.text_or("rope_type", rope.text_or("type", "").c_str()) !=
        "dynamic")
      continue;
    fields[place]["rope_type"] = fields[place]["type"] = "default";
    fields[place]["alpha"] = rope.positive("alpha");
  }
  return ConfigReader(std::move(fields));
}

DecoderConfig hunyuan(const std::string& json) {
  const auto config = without_alpha(json);
  if (!config.boolean("use_qk_norm", true) || config.boolean("use_cla", false))
    fail(
        ErrorKind::bad_data,
        "[config.json] a Hunyuan model without 'use_qk_norm', or with "
        "'use_cla', is not supported");
  auto c = common_config(config, {.eps = 1e-5f});
  const auto rope = config.object(
      config.has("rope_parameters") ? "rope_parameters" : "rope_scaling");
  if (c.rope.kind == "default" && rope.has("alpha")) {
    const auto d = static_cast<float>(c.d_head);
    if (c.d_head <= 2)
      fail(
          ErrorKind::bad_data,
          "[config.json] 'alpha' needs a head_dim above 2, this one is {}",
          c.d_head);
    c.rope.theta *= std::pow(rope.positive("alpha"), d / (d - 2));
  }
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.qk_norm = nn::AttentionConfig::QkNorm::head;
  c.qk_norm_rotated = true;
  return c;
}

constexpr Rename names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"query_layernorm", "q_norm"},
    {"key_layernorm", "k_norm"},
    {"post_attention_layernorm", "ln2"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
};

}  // namespace

extern const Family hunyuan_family;
const Family hunyuan_family = {"hunyuan_v1_dense", hunyuan, names};

}  // namespace mlxterp
