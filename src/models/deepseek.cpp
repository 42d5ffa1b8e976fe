// models/deepseek.cpp: DeepSeek-V2 and -V3 (2024), and after them GLM-4.7-Flash
// (2026, Zhipu AI) and Youtu-LLM (2025, Tencent): attention through latents.

#include <cmath>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/deepseek_experts.h"

namespace mlxterp {

namespace {

struct LatentDefaults {
  int q_rank = 1536, kv_rank = 512;
  int d_nope = 128, d_rope = 64, d_value = 128;
};

// YaRN, which multiplies what is rotated, may ask to multiply the rest, too.
float stretched(const ConfigReader& config) {
  const auto scaling = config.object(
      config.has("rope_parameters") ? "rope_parameters" : "rope_scaling");
  const auto older = scaling.text_or("type", "default");
  if (scaling.text_or("rope_type", older.c_str()) == "default" ||
      !scaling.has("mscale_all_dim") || scaling.json()["mscale_all_dim"] == 0)
    return 1;
  const float factor = scaling.positive("factor");
  if (factor <= 1) return 1;
  const float m =
      0.1f * scaling.positive("mscale_all_dim") * std::log(factor) + 1;
  return m * m;
}

DecoderConfig latent_config(
    const std::string& json,
    const CommonDefaults& common,
    const LatentDefaults& defaults) {
  auto fields = ConfigReader(json).json();
  const auto size = [&](const char* field, int usual) {
    return ConfigReader(fields).integer_or(field, usual, 1, limits::d_model);
  };
  const int d_rope = size("qk_rope_head_dim", defaults.d_rope);
  fields["head_dim"] = d_rope;  // all of what turns
  const ConfigReader config(fields);
  auto c = common_config(config, common);
  if (c.n_kv_heads != c.n_heads)
    fail(
        ErrorKind::bad_data,
        "[config.json] num_key_value_heads {} is not num_attention_heads {}: "
        "every head has keys and values of its own, made from one latent",
        c.n_kv_heads,
        c.n_heads);
  c.d_head = size("qk_nope_head_dim", defaults.d_nope) + d_rope;
  c.rope.interleaved = config.boolean("rope_interleave", true);
  c.attention_scale =
      stretched(config) / std::sqrt(static_cast<float>(c.d_head));
  const bool bias = config.boolean("attention_bias", false);
  c.attn_out_bias = bias;
  c.latent = nn::LatentConfig{
      .q_rank =
          config.null("q_lora_rank") ? 0 : size("q_lora_rank", defaults.q_rank),
      .kv_rank = size("kv_lora_rank", defaults.kv_rank),
      .d_rope = d_rope,
      .d_value = size("v_head_dim", defaults.d_value),
      .bias = bias,
      .norm = {.eps = 1e-6f},  // whatever the config says of the others
  };
  return c;
}

DecoderConfig deepseek_v3(const std::string& json) {
  auto c = latent_config(json, {.kv_heads = 128, .context = 4096}, {});
  set_deepseek_experts(
      ConfigReader(json),
      {.count = 256,
       .top_k = 8,
       .d_mlp = 2048,
       .n_shared = 1,
       .n_groups = 8,
       .top_groups = 4,
       .scale = 2.5f,
       .first_dense = 3},
      c);
  return c;
}

// Softmax in place of sigmoids; groups by their best expert, if at all.
DecoderConfig deepseek_v2(const std::string& json) {
  const ConfigReader config(json);
  auto c = latent_config(json, {}, {});
  c.rope.interleaved = true;
  auto fields = config.json();
  const auto method = config.text_or("topk_method", "greedy");
  if (method == "greedy")
    fields["n_group"] = fields["topk_group"] = 1;
  else if (method != "group_limited_greedy")
    fail(
        ErrorKind::bad_data,
        "[config.json] 'topk_method' is '{}'; known: greedy, "
        "group_limited_greedy",
        printable(method));
  set_deepseek_experts(
      ConfigReader(fields),
      {.count = 64, .top_k = 0, .d_mlp = 1407, .n_shared = 2},
      c);
  c.moe->normalize = false;  // whatever the config says
  auto& routing = c.moe->routing;
  routing.sigmoid = routing.corrected = routing.by_two = false;
  c.mlp_bias = c.moe->shared_bias = config.boolean("mlp_bias", false);
  return c;
}

DecoderConfig glm4_moe_lite(const std::string& json) {
  const ConfigReader config(json);
  auto c = latent_config(
      json,
      {.kv_heads = 20, .context = 202'752, .eps = 1e-5f},
      {.q_rank = 768, .d_nope = 192, .d_value = 256});
  set_deepseek_experts(
      config,
      {.count = 64,
       .top_k = 4,
       .d_mlp = 1536,
       .n_shared = 1,
       .scale = 1.8f,
       .first_dense = 1},
      c);
  if (!config.has("mlp_layer_types")) return c;
  const auto types = config.texts("mlp_layer_types", c.dense.size());
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] != "sparse" && types[i] != "dense")
      fail(
          ErrorKind::bad_data,
          "[config.json] 'mlp_layer_types' names '{}'; known: sparse, dense",
          printable(types[i]));
    c.dense[i] = types[i] == "dense";
  }
  return c;
}

DecoderConfig youtu(const std::string& json) {
  return latent_config(
      json, {.tied = true, .kv_heads = 16, .context = 131'072}, {});
}

int heads(const Decoder& decoder) {
  return decoder.config().n_heads;
}

constexpr std::string_view k_v_b[] = {"attn.k_b_proj", "attn.v_b_proj"};
constexpr Fused fused[] = {
    {.part = "attn.kv_b_proj", .into = k_v_b, .blocks_of = heads},
    gate_up_stack,
};

// By head, as mlx-lm saves them, one of the two turned around.
constexpr std::string_view turned[] = {"attn.k_b_proj"};

constexpr Family with_latents(
    std::string_view model_type,
    DecoderConfig (*configure)(const std::string&)) {
  return {
      .model_type = model_type,
      .configure = configure,
      .renames = deepseek_names,
      .fused = fused,
      .transposed = turned,
      .by_head = k_v_b};
}

}  // namespace

extern const Family deepseek_v2_family, deepseek_v3_family,
    glm4_moe_lite_family, youtu_family;
const Family deepseek_v2_family = with_latents("deepseek_v2", deepseek_v2);
const Family deepseek_v3_family = with_latents("deepseek_v3", deepseek_v3);
const Family glm4_moe_lite_family =
    with_latents("glm4_moe_lite", glm4_moe_lite);
const Family youtu_family = with_latents("youtu", youtu);

}  // namespace mlxterp
