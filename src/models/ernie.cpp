// models/ernie.cpp: ERNIE 4.5 (Baidu, 2025), which turns neighbours, and its
// mixture of experts.

#include <algorithm>

#include "mlxterp/core/limits.h"
#include "mlxterp/io/checkpoint.h"
#include "models/common.h"
#include "models/experts.h"

namespace mlxterp {

namespace {

DecoderConfig common(const ConfigReader& config, const CommonDefaults& own) {
  auto c = common_config(config, own);
  c.rope.interleaved = true;
  if (!config.null("use_bias") && config.boolean("use_bias", false))
    c.qkv_bias = c.attn_out_bias = c.mlp_bias = true;
  return c;
}

DecoderConfig ernie4_5(const std::string& json) {
  return common(
      ConfigReader(json),
      {.tied = true,
       .theta = 500'000.0f,
       .kv_heads = 2,
       .d_head = 128,
       .context = 131'072,
       .eps = 1e-5f});
}

DecoderConfig ernie4_5_moe(const std::string& json) {
  const ConfigReader config(json);
  auto c = common(
      config,
      {.tied = true,
       .theta = 500'000.0f,
       .kv_heads = 4,
       .context = 131'072,
       .eps = 1e-5f});
  c.unembed_bias = c.mlp_bias;
  const auto count = [&](const char* field, int usual, int least, int most) {
    return config.integer_or(field, usual, least, most);
  };
  nn::MoEConfig moe{.d_model = c.d_model, .activation = c.activation};
  moe.d_mlp = count("moe_intermediate_size", 1536, 1, limits::d_mlp);
  moe.n_experts = count("moe_num_experts", 64, 1, limits::heads);
  moe.top_k = count("moe_k", 6, 1, moe.n_experts);
  moe.d_shared =
      moe.d_mlp * count("moe_num_shared_experts", 2, 0, limits::heads);
  moe.shared_bias = c.mlp_bias;
  moe.bias = false;
  moe.routing.corrected = true;
  c.moe = moe;
  const int every = count("moe_layer_interval", 1, 1, limits::layers);
  const int first = count("moe_layer_start_index", 1, 0, limits::layers);
  int last = count("moe_layer_end_index", -1, -1, limits::layers);
  if (last < 0) last = c.n_layers - 1;
  for (int i = 0; i < c.n_layers; ++i)
    c.dense.push_back((i + 1) % every != 0 || i < first || i > last);
  return c;
}

// mlx-lm leaves the corrections out, and chooses without.
void tell(DecoderConfig& c, const Checkpoint& checkpoint) {
  const auto any = [&](std::string_view part) {
    return std::ranges::any_of(
        checkpoint.tensors(), [&](const TensorInfo& tensor) {
          return tensor.name.find(part) != std::string::npos;
        });
  };
  if (any("switch_mlp") && !any("e_score_correction_bias"))
    c.moe->routing.corrected = false;
}

constexpr Rename moe_names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"norm", "ln_final", /*at_start=*/true},
    {"lm_head", "unembed"},
    {"mlp.gate.e_score_correction_bias", "mlp.score_correction"},  // GGUF
    {"mlp.moe_statics.e_score_correction_bias", "mlp.score_correction"},
    {"mlp.gate", "mlp.router"},
    {"mlp.shared_experts", "mlp.shared_expert"},
    {"switch_mlp", "experts"},  // stacked, as mlx-lm saves them
    {"experts.gate_up_proj", "experts.gate_up_proj.weight"},
    {"experts.down_proj", "experts.down_proj.weight"},
};

constexpr Fused fused[] = {gate_up_stack};

}  // namespace

extern const Family ernie4_5_family, ernie4_5_moe_family;
const Family ernie4_5_family = {"ernie4_5", ernie4_5, llama_names};
const Family ernie4_5_moe_family = {
    .model_type = "ernie4_5_moe",
    .configure = ernie4_5_moe,
    .renames = moe_names,
    .fused = fused,
    .tell = tell};

}  // namespace mlxterp
