// models/granite_hybrid.cpp: Granite 4.0 (IBM, 2025): state spaces, attention
// in some layers or all, and experts beside an MLP in some models.

#include <algorithm>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"
#include "models/experts.h"
#include "models/state_spaces.h"

namespace mlxterp {

namespace {

bool says(const nlohmann::json& value, std::string_view word) {
  return value.is_string() && value.get_ref<const std::string&>() == word;
}

constexpr StateSpaceFields fields = {
    .n_heads = {"mamba_n_heads", 128},
    .d_head = {"mamba_d_head", 0},
    .n_groups = {"mamba_n_groups", 1},
    .d_state = {"mamba_d_state", 256},
    .conv_width = {"mamba_d_conv", 4},
    .expand = {"mamba_expand", 2},
    .conv_bias = "mamba_conv_bias",
    .bias = "mamba_proj_bias"};

// Its own files call them mamba and attention.
ConfigReader with_newer_names(const std::string& json) {
  auto all = ConfigReader(json).json();
  if (all.contains("layer_types") && all["layer_types"].is_array())
    for (auto& type : all["layer_types"]) {
      if (says(type, "mamba")) type = "linear_attention";
      if (says(type, "attention")) type = "full_attention";
    }
  return ConfigReader(std::move(all));
}

DecoderConfig granite_hybrid(const std::string& json) {
  const auto config = with_newer_names(json);
  const int experts =
      config.integer_or("num_local_experts", 8, 0, limits::heads);
  const int shared =
      config.integer_or("shared_intermediate_size", 1024, 1, limits::d_mlp);
  auto c = common_config(config);
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.embed_factor = config.positive("embedding_multiplier", 1.0f);
  c.residual_scale = config.positive("residual_multiplier", 1.0f);
  c.attention_scale = config.positive("attention_multiplier", 1.0f);
  c.logit_scale = 1.0f / config.positive("logits_scaling", 1.0f);
  std::string positions = "nope";
  if (!config.null("position_embedding_type"))
    positions = config.text_or("position_embedding_type", "nope");
  if (positions == "nope")
    c.rope.dims = 0;
  else if (positions != "rope")
    fail(
        ErrorKind::bad_data,
        "[config.json] 'position_embedding_type' is '{}'; known: rope, nope",
        printable(positions));
  if (experts > 0) {
    c.moe = {
        .d_model = c.d_model,
        .d_mlp = c.d_mlp,
        .n_experts = experts,
        .top_k = config.integer_or("num_experts_per_tok", 2, 1, experts),
        .normalize = true,  // its softmax is over the chosen alone
        .activation = c.activation,
    };
    c.moe_beside = true;
  }
  c.d_mlp = shared;

  const auto attending = attending_layers(
      config, c.n_layers, "linear_attention", [](int) { return false; });
  if (std::ranges::find(attending, false) == attending.end()) return c;
  const auto ssm = state_space_of(config, c, fields);
  c.mixer = [=](const DecoderConfig& own,
                int layer) -> std::unique_ptr<nn::Mixer> {
    if (attending[static_cast<size_t>(layer)])
      return std::make_unique<nn::Attention>(attention_config(own, layer));
    return std::make_unique<nn::StateSpace>(ssm);
  };
  return c;
}

constexpr Rename names[] = {
    {"model", ""},
    // As mlx-lm saves them.
    {"block_sparse_moe.switch_mlp", "block_sparse_moe.experts"},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"norm", "ln_final", /*at_start=*/true},
    {"lm_head", "unembed"},
    {"mamba", "ssm"},
    {"ssm.conv1d", "ssm.conv"},
    {"shared_mlp", "mlp"},
    {"mlp.input_linear", "mlp.gate_up_proj"},
    {"mlp.output_linear", "mlp.down_proj"},
    {"block_sparse_moe", "moe"},
    {"moe.router.layer", "moe.router"},
    {"moe.input_linear", "moe.experts.gate_up_proj"},
    {"moe.output_linear", "moe.experts.down_proj"},
};

constexpr Fused fused[] = {
    {.part = "ssm.in_proj", .into = ssm_projections},
    {.part = "mlp.gate_up_proj", .into = gate_up},
    gate_up_stack,
};

}  // namespace

extern const Family granite_hybrid_family;
const Family granite_hybrid_family = {
    .model_type = "granitemoehybrid",
    .configure = granite_hybrid,
    .renames = names,
    .fused = fused,
    .by_head = ssm_by_head};

}  // namespace mlxterp
