// models/qwen3_next.cpp: Qwen3-Next (2025) and Qwen3.5 (2026): gated delta
// nets, and attention whose output is gated in every fourth layer.

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/nn/delta_net.h"
#include "models/experts.h"
#include "models/qwen_experts.h"

namespace mlxterp {

namespace {

nn::DeltaNetConfig delta_config(
    const ConfigReader& config, const DecoderConfig& c) {
  const auto count = [&](const char* field, int usual) {
    return config.integer_or(field, usual, 1, limits::heads);
  };
  const auto width = [&](const char* field, int usual, int most) {
    return config.integer_or(field, usual, 1, most);
  };
  nn::DeltaNetConfig out;
  out.d_model = c.d_model;
  out.n_key_heads = count("linear_num_key_heads", 16);
  out.n_value_heads = count("linear_num_value_heads", 32);
  out.d_key = width("linear_key_head_dim", 128, limits::d_model);
  out.d_value = width("linear_value_head_dim", 128, limits::d_model);
  out.conv_width = width("linear_conv_kernel_dim", 4, limits::heads);
  out.activation = c.activation;
  out.norm.eps = c.norm.eps;
  if (out.n_value_heads % out.n_key_heads != 0)
    fail(
        ErrorKind::bad_data,
        "[config.json] linear_num_value_heads {} is not a multiple of "
        "linear_num_key_heads {}",
        out.n_value_heads,
        out.n_key_heads);
  return out;
}

DecoderConfig hybrid(
    const ConfigReader& config, const CommonDefaults& defaults) {
  auto c = common_config(config, defaults);
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.attention_gate = true;
  c.qk_norm = nn::AttentionConfig::QkNorm::head;
  c.norm.plus_one = c.qk_norm_config.plus_one = true;
  c.rope = rope_of(config, c.d_head, c.context, {.part = 0.25f});
  const int every =
      config.integer_or("full_attention_interval", 4, 1, limits::layers);
  const auto attending = attending_layers(
      config, c.n_layers, "linear_attention", [every](int layer) {
        return (layer + 1) % every == 0;
      });
  const auto delta = delta_config(config, c);
  c.mixer = [=](const DecoderConfig& own,
                int layer) -> std::unique_ptr<nn::Mixer> {
    if (attending[static_cast<size_t>(layer)])
      return std::make_unique<nn::Attention>(attention_config(own, layer));
    return std::make_unique<nn::DeltaNet>(delta);
  };
  return c;
}

void set_shared_expert(const ConfigReader& config, DecoderConfig& c) {
  c.moe->d_shared = config.integer_or(
      "shared_expert_intermediate_size", 512, 1, limits::d_mlp);
  c.moe->shared_gate = true;
}

DecoderConfig qwen3_next(const std::string& json) {
  const ConfigReader config(json);
  auto c = hybrid(config, {.kv_heads = 2, .d_head = 256, .context = 32'768});
  if (config.integer_or("num_experts", 512, 0, limits::heads) == 0) return c;
  set_qwen_experts(
      config,
      {.count_field = "num_experts",
       .count = 512,
       .top_k = 10,
       .d_mlp = 512,
       .normalize = true},
      c);
  set_shared_expert(config, c);
  return c;
}

DecoderConfig qwen3_5(const std::string& json) {
  return hybrid(
      ConfigReader(json), {.kv_heads = 4, .d_head = 256, .context = 32'768});
}

DecoderConfig qwen3_5_moe(const std::string& json) {
  auto fields = ConfigReader(json).json();
  // There is no layer with a plain MLP, and so no width of one.
  for (const auto* field :
       {"intermediate_size", "decoder_sparse_step", "mlp_only_layers"})
    fields.erase(field);
  fields["norm_topk_prob"] = true;
  if (!fields.contains("moe_intermediate_size"))
    fields["moe_intermediate_size"] = 512;
  fields["intermediate_size"] = fields["moe_intermediate_size"];
  const ConfigReader config(fields);
  auto c = hybrid(config, {.kv_heads = 2, .d_head = 256, .context = 32'768});
  set_qwen_experts(
      config,
      {.count_field = "num_experts",
       .count = 256,
       .top_k = 8,
       .d_mlp = 512,
       .normalize = true},
      c);
  set_shared_expert(config, c);
  return c;
}

// mlx-lm adds the 1 of the gains when it turns the convolutions around, [d,
// width, 1].
void tell(DecoderConfig& c, const Checkpoint& checkpoint) {
  for (const auto& tensor : checkpoint.tensors())
    if (tensor.name.ends_with("conv1d.weight") && tensor.shape.size() == 3 &&
        tensor.shape[2] == 1 && tensor.shape[1] > 1)
      c.norm.plus_one = c.qk_norm_config.plus_one = false;
}

constexpr Rename names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"attn.q_proj", "attn.q_gate_proj"},
    {"linear_attn", "delta"},
    {"delta.conv1d", "delta.conv"},
    {"in_proj_qkvz", "qkvz_proj"},
    {"in_proj_ba", "ba_proj"},
    {"in_proj_qkv", "qkv_proj"},
    {"in_proj_z", "z_proj"},
    {"in_proj_b", "b_proj"},
    {"in_proj_a", "a_proj"},
    {"post_attention_layernorm", "ln2"},
    {"norm", "ln_final", /*at_start=*/true},
    {"lm_head", "unembed"},
    {"mlp.gate", "mlp.router"},
    {"switch_mlp", "experts"},  // stacked, as mlx-lm saves them
    {"experts.gate_up_proj", "experts.gate_up_proj.weight"},
    {"experts.down_proj", "experts.down_proj.weight"},
};

constexpr std::string_view q_gate[] = {"attn.q_proj", "attn.gate_proj"};
constexpr std::string_view delta_q_k_v[] = {
    "delta.q_proj", "delta.k_proj", "delta.v_proj"};
constexpr std::string_view delta_q_k_v_z[] = {
    "delta.q_proj", "delta.k_proj", "delta.v_proj", "delta.z_proj"};
constexpr std::string_view delta_b_a[] = {"delta.b_proj", "delta.a_proj"};
int heads(const Decoder& decoder) {
  return decoder.config().n_heads;
}

// With each key head go the values that it serves.
int key_heads(const Decoder& decoder) {
  for (const auto& layer : decoder.layers)
    if (const auto* delta =
            dynamic_cast<const nn::DeltaNet*>(layer->mixer.get()))
      return delta->config().n_key_heads;
  return 1;
}

constexpr Fused q_gate_heads = {
    .part = "attn.q_gate_proj", .into = q_gate, .blocks_of = heads};
constexpr Fused next_fused[] = {
    q_gate_heads,
    gate_up_stack,
    {.part = "delta.qkvz_proj", .into = delta_q_k_v_z, .blocks_of = key_heads},
    {.part = "delta.ba_proj", .into = delta_b_a, .blocks_of = key_heads},
};
constexpr Fused fused[] = {
    q_gate_heads,
    gate_up_stack,
    {.part = "delta.qkv_proj", .into = delta_q_k_v},
};

}  // namespace

extern const Family qwen3_next_family, qwen3_5_family, qwen3_5_moe_family;
const Family qwen3_next_family = {
    .model_type = "qwen3_next",
    .configure = qwen3_next,
    .renames = names,
    .fused = next_fused,
    .tell = tell};
const Family qwen3_5_family = {
    .model_type = "qwen3_5_text",
    .configure = qwen3_5,
    .renames = names,
    .fused = fused,
    .tell = tell};
const Family qwen3_5_moe_family = {
    .model_type = "qwen3_5_moe_text",
    .configure = qwen3_5_moe,
    .renames = names,
    .fused = fused,
    .tell = tell};

}  // namespace mlxterp
