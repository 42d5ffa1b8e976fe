// models/granite_hybrid.cpp: Granite 4.0 (IBM, 2025): state spaces, attention
// in some layers or all, and experts beside an MLP in some models.

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/nn/state_space.h"
#include "models/common.h"
#include "models/experts.h"

namespace mlxterp {

namespace {

bool says(const nlohmann::json& value, std::string_view word) {
  return value.is_string() && value.get_ref<const std::string&>() == word;
}

// A bound of a time step: 0, a positive float32, or the infinity that
// transformers writes as {"__float__": "Infinity"}.
std::optional<float> bound(const nlohmann::json& value) {
  if (value.is_object() && value.size() == 1 && value.contains("__float__") &&
      says(value["__float__"], "Infinity"))
    return std::numeric_limits<float>::infinity();
  if (!value.is_number()) return std::nullopt;
  const auto wide = value.get<double>();
  const auto narrow = static_cast<float>(wide);
  const bool fits = wide == 0 || (narrow >= std::numeric_limits<float>::min() &&
                                  std::isfinite(narrow));
  return fits ? std::optional(narrow) : std::nullopt;
}

nn::StateSpaceConfig state_space(
    const ConfigReader& config, const DecoderConfig& c) {
  const auto count = [&](const char* field, int usual, int most) {
    return config.integer_or(field, usual, 1, most);
  };
  nn::StateSpaceConfig out;
  out.d_model = c.d_model;
  out.n_heads = count("mamba_n_heads", 128, limits::heads);
  out.n_groups = count("mamba_n_groups", 1, limits::heads);
  out.d_state = count("mamba_d_state", 256, limits::d_model);
  out.conv_width = count("mamba_d_conv", 4, limits::heads);
  out.conv_bias = config.boolean("mamba_conv_bias", true);
  out.bias = config.boolean("mamba_proj_bias", false);
  out.activation = c.activation;
  out.norm.eps = c.norm.eps;
  const int inner = count("mamba_expand", 2, limits::heads) * c.d_model;
  const bool said = config.json().contains("mamba_d_head") &&
                    !says(config.json()["mamba_d_head"], "auto");
  out.d_head = said ? config.integer("mamba_d_head", 1, limits::d_model)
                    : inner / out.n_heads;
  if (out.d_head * out.n_heads != inner || out.n_heads % out.n_groups != 0)
    fail(
        ErrorKind::bad_data,
        "[config.json] mamba_n_heads {} of mamba_d_head {} in mamba_n_groups "
        "{} are not mamba_expand * hidden_size, {}, in whole groups",
        out.n_heads,
        out.d_head,
        out.n_groups,
        inner);
  if (!config.has("time_step_limit")) return out;
  const auto& limit = config.json()["time_step_limit"];
  const auto least = limit.is_array() && limit.size() == 2 ? bound(limit[0])
                                                           : std::nullopt,
             most = least ? bound(limit[1]) : std::nullopt;
  if (!most || *most < *least)
    fail(
        ErrorKind::bad_data,
        "[config.json] 'time_step_limit' is {}; give the least and the most, "
        "0 or above",
        printable(limit.dump()));
  out.dt_least = *least;
  out.dt_most = *most;
  return out;
}

// Its own files call them mamba and attention.
ConfigReader with_newer_names(const std::string& json) {
  auto fields = ConfigReader(json).json();
  if (fields.contains("layer_types") && fields["layer_types"].is_array())
    for (auto& type : fields["layer_types"]) {
      if (says(type, "mamba")) type = "linear_attention";
      if (says(type, "attention")) type = "full_attention";
    }
  return ConfigReader(std::move(fields));
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
  const auto ssm = state_space(config, c);
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

constexpr std::string_view projections[] = {
    "ssm.z_proj", "ssm.x_proj", "ssm.B_proj", "ssm.C_proj", "ssm.dt_proj"};
constexpr Fused fused[] = {
    {.part = "ssm.in_proj", .into = projections},
    {.part = "mlp.gate_up_proj", .into = gate_up},
    gate_up_stack,
};
constexpr std::string_view by_head[] = {"ssm.norm"};

}  // namespace

extern const Family granite_hybrid_family;
const Family granite_hybrid_family = {
    .model_type = "granitemoehybrid",
    .configure = granite_hybrid,
    .renames = names,
    .fused = fused,
    .by_head = by_head};

}  // namespace mlxterp
