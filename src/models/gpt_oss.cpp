// models/gpt_oss.cpp: gpt-oss (OpenAI, 2025).

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"
#include "models/experts.h"

namespace mlxterp {

namespace {

// Without a word about the rotation, it is that of the first models.
ConfigReader with_rotation(const ConfigReader& config) {
  auto json = config.json();
  if (config.has("rope_parameters") ||
      !config.object("rope_scaling").json().empty())
    return config;
  json["rope_parameters"] = {
      {"rope_type", "yarn"},
      {"factor", 32.0},
      {"beta_fast", 32.0},
      {"beta_slow", 1.0},
      {"truncate", false},
      {"original_max_position_embeddings", 4096}};
  return ConfigReader(json);
}

DecoderConfig gpt_oss(const std::string& text) {
  const auto config = with_rotation(ConfigReader(text));
  auto c = common_config(
      config,
      {.theta = 150'000.0f,
       .kv_heads = 8,
       .d_head = 64,
       .context = 131'072,
       .eps = 1e-5f});
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", true);
  c.attention_sinks = true;
  c.windows = windows_of(
      config, c.n_layers, 128, [](int layer) { return layer % 2 == 0; });
  nn::MoEConfig moe;
  moe.d_model = c.d_model;
  moe.d_mlp = c.d_mlp;
  const char* experts = config.json().contains("num_experts")
                            ? "num_experts"
                            : "num_local_experts";
  moe.n_experts = config.integer_or(experts, 128, 1, limits::heads);
  moe.top_k = config.integer_or("num_experts_per_tok", 4, 1, moe.n_experts);
  // The softmax is over the chosen alone, which is the same.
  moe.normalize = true;
  moe.swiglu = {
      .slope = config.positive("swiglu_alpha", 1.702f),
      .limit = config.positive("swiglu_limit", 7.0f)};
  moe.bias = moe.router_bias = true;
  c.moe = moe;
  return c;
}

// transformers keeps experts without ".weight", as [in, out]; packed ones and
// those of mlx-lm are [out, in].
constexpr Rename names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
    {"gate_up_proj_bias", "gate_up_proj.bias"},
    {"down_proj_bias", "down_proj.bias"},
    {"experts.gate_up_proj", "experts.gate_up_proj.weight"},
    {"experts.down_proj", "experts.down_proj.weight"},
};

constexpr Fused fused[] = {
    {"experts.gate_up_proj",
     gate_up_experts,
     Fused::by_turns,
     /*stacked=*/true}};
constexpr std::string_view transposed[] = {
    "experts.gate_up_proj", "experts.down_proj"};

}  // namespace

extern const Family gpt_oss_family;
const Family gpt_oss_family = {
    "gpt_oss",
    gpt_oss,
    names,
    fused,
    transposed,
    /*already_transposed_prefix=*/{},
    /*already_transposed_suffix=*/".weight"};

}  // namespace mlxterp
