// models/gemma4.cpp: Gemma 4's text part (Google DeepMind, 2026).

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"
#include "models/experts.h"

namespace mlxterp {

namespace {

constexpr const char* full = "full_attention";
constexpr const char* sliding = "sliding_attention";

// Every sixth layer sees the whole prompt, and the last one always does.
std::vector<bool> full_layers(const ConfigReader& config, int n_layers) {
  std::vector<bool> out;
  std::vector<std::string> types;
  if (config.has("layer_types"))
    types = config.texts("layer_types", static_cast<size_t>(n_layers));
  for (int i = 0; i < n_layers; ++i) {
    if (types.empty()) {
      out.push_back((i + 1) % 6 == 0);
      continue;
    }
    const auto& type = types[static_cast<size_t>(i)];
    if (type != full && type != sliding)
      fail(
          ErrorKind::bad_data,
          "[config.json] 'layer_types' names '{}'; known: full_attention, "
          "sliding_attention",
          printable(type));
    out.push_back(type == full);
  }
  out.back() = true;
  return out;
}

// What a layer says of its own, in place of what holds for all.
ConfigReader own_fields(const ConfigReader& per_layer, int layer) {
  auto own = per_layer.object(std::to_string(layer).c_str());
  for (const auto& [field, value] : own.json().items())
    if (field != "head_dim" && field != "num_key_value_heads")
      fail(
          ErrorKind::bad_data,
          "[config.json] 'per_layer_config' gives layer {} '{}' of its own, "
          "which is not supported; known: head_dim, num_key_value_heads",
          layer,
          printable(field));
  return own;
}

void check_per_layer(const ConfigReader& per_layer, int n_layers) {
  for (const auto& [key, value] : per_layer.json().items()) {
    int layer = -1;
    const auto* end = key.data() + key.size();
    const auto parsed = std::from_chars(key.data(), end, layer);
    if (parsed.ec != std::errc() || parsed.ptr != end || layer < 0 ||
        layer >= n_layers)
      fail(
          ErrorKind::bad_data,
          "[config.json] 'per_layer_config' names layer '{}'; there are {}, "
          "from 0",
          printable(key),
          n_layers);
  }
}

// Heads of each layer: those that see the whole prompt have others.
void set_heads(
    DecoderConfig& c,
    const ConfigReader& config,
    const std::vector<bool>& sees_all) {
  const bool k_eq_v = config.boolean("attention_k_eq_v", false);
  const bool listed = config.has("per_layer_config");
  const auto per_layer = config.object("per_layer_config");
  check_per_layer(per_layer, c.n_layers);
  int d_head = c.d_head, kv_heads = c.n_kv_heads;
  if (!listed) {
    d_head = config.integer_or("global_head_dim", 512, 1, limits::d_model);
    if (k_eq_v && config.has("num_global_key_value_heads"))
      kv_heads = config.integer("num_global_key_value_heads", 1, limits::heads);
  }
  for (int i = 0; i < c.n_layers; ++i) {
    const bool all = sees_all[static_cast<size_t>(i)];
    const auto own = own_fields(per_layer, i);
    c.d_heads.push_back(own.integer_or(
        "head_dim", all ? d_head : c.d_head, 1, limits::d_model));
    c.kv_heads.push_back(own.integer_or(
        "num_key_value_heads",
        all ? kv_heads : c.n_kv_heads,
        1,
        limits::heads));
    c.k_eq_v.push_back(k_eq_v && all);
    if (c.d_heads.back() % 2 != 0)
      fail(
          ErrorKind::bad_data,
          "[config.json] head_dim {} of layer {} is odd; RoPE rotates pairs of "
          "dimensions",
          c.d_heads.back(),
          i);
    if (c.n_heads % c.kv_heads.back() != 0)
      fail(
          ErrorKind::bad_data,
          "[config.json] num_attention_heads {} is not a multiple of "
          "num_key_value_heads {} of layer {}",
          c.n_heads,
          c.kv_heads.back(),
          i);
  }
}

// The width of heads of a kind of layer, by which they turn.
int d_head_of(
    const DecoderConfig& c, const std::vector<bool>& sees_all, bool all) {
  int found = 0;
  for (size_t i = 0; i < sees_all.size(); ++i) {
    if (sees_all[i] != all) continue;
    if (found > 0 && found != c.d_heads[i])
      fail(
          ErrorKind::bad_data,
          "[config.json] 'per_layer_config' gives layers of the kind '{}' "
          "heads of {} and of {} dimensions; they are rotated alike",
          all ? full : sliding,
          found,
          c.d_heads[i]);
    found = c.d_heads[i];
  }
  return found;
}

nn::Rope rope_of_kind(
    const ConfigReader& config, const char* kind, int d_head, int context) {
  auto json = config.json();
  if (!config.has("rope_parameters"))
    json["rope_parameters"] = {
        {sliding, {{"rope_type", "default"}, {"rope_theta", 10'000.0}}},
        {full,
         {{"rope_type", "proportional"},
          {"partial_rotary_factor", 0.25},
          {"rope_theta", 1'000'000.0}}}};
  const auto all = ConfigReader(json).object("rope_parameters");
  const auto own = all.object(kind);
  if (!own.has("rope_theta"))
    fail(
        ErrorKind::bad_data,
        "[config.json] 'rope_parameters' gives no 'rope_theta' for '{}', a "
        "kind "
        "of layer that this model has",
        kind);
  // Only "proportional" knows parts of a head.
  if (own.text_or("rope_type", "default") == "default")
    json["rope_parameters"][kind]["partial_rotary_factor"] = 1;
  return rope_of(ConfigReader(json), d_head, context, {.kind = kind});
}

// The last layers read keys and values of the last of their kind before them.
void set_shared(
    DecoderConfig& c,
    const ConfigReader& config,
    const std::vector<bool>& sees_all) {
  const int shared =
      config.integer_or("num_kv_shared_layers", 0, 0, c.n_layers - 1);
  const bool wide = config.boolean("use_double_wide_mlp", false);
  if (shared == 0) return;
  const int first = c.n_layers - shared;
  for (int i = 0; i < c.n_layers; ++i) {
    int source = i;
    if (i >= first) {
      source = first - 1;
      while (source >= 0 && sees_all[static_cast<size_t>(source)] !=
                                sees_all[static_cast<size_t>(i)])
        --source;
      if (source < 0)
        fail(
            ErrorKind::bad_data,
            "[config.json] layer {} is one of the last {}, which read the keys "
            "and values of an earlier layer of their kind ('num_kv_shared_"
            "layers'), but none before layer {} is of the kind '{}'",
            i,
            shared,
            first,
            sees_all[static_cast<size_t>(i)] ? full : sliding);
    }
    c.kv_layers.push_back(source);
    c.d_mlps.push_back(wide && i >= first ? 2 * c.d_mlp : c.d_mlp);
  }
}

void set_experts(DecoderConfig& c, const ConfigReader& config) {
  if (!config.boolean("enable_moe_block", false)) return;
  nn::MoEConfig moe;
  moe.d_model = c.d_model;
  moe.d_mlp = config.integer("moe_intermediate_size", 1, limits::d_mlp);
  moe.n_experts = config.integer("num_experts", 1, limits::heads);
  moe.top_k = config.integer("top_k_experts", 1, moe.n_experts);
  moe.activation = c.activation;
  moe.norm = moe.router_norm = c.norm;
  moe.router_scale = 1.0f / std::sqrt(static_cast<float>(c.d_model));
  moe.expert_scale = true;
  c.moe = moe;
  c.moe_beside = true;
}

void check_causal(const ConfigReader& config) {
  const char* field = "use_bidirectional_attention";
  if (!config.has(field)) return;
  // Among the tokens of an image alone, of which there are none here.
  if (const auto which = config.text(field); which != "vision")
    fail(
        ErrorKind::bad_data,
        "[config.json] '{}' is '{}', which is not supported; known: vision",
        field,
        printable(which));
}

DecoderConfig gemma4(const std::string& json) {
  const ConfigReader config(json);
  check_causal(config);
  auto c = common_config(
      config, {.tied = true, .kv_heads = 4, .d_head = 256, .context = 131'072});
  c.embed_scale = std::sqrt(static_cast<float>(c.d_model));
  c.activation =
      activation_of(config, "hidden_activation", "gelu_pytorch_tanh");
  c.post_norms = c.layer_scalar = true;
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.attention_scale = 1.0f;
  c.qk_norm = nn::AttentionConfig::QkNorm::head;
  c.v_norm = c.norm;
  c.v_norm->gain = false;
  c.logit_softcap = softcap_of(config, "final_logit_softcapping", 0);

  const auto sees_all = full_layers(config, c.n_layers);
  set_heads(c, config, sees_all);
  // Null is none: as long as the longest prompt. Which layers are of the kind
  // stays what it is.
  const int window =
      config.null("sliding_window")
          ? c.context
          : config.integer_or("sliding_window", 512, 1, limits::dim);
  for (const bool all : sees_all)
    c.windows.push_back(all ? 0 : window);
  const int context = c.context;
  c.rope = rope_of_kind(config, full, d_head_of(c, sees_all, true), context);
  if (const int d = d_head_of(c, sees_all, false); d > 0)
    c.local_rope = rope_of_kind(config, sliding, d, context);
  c.context = std::max(context, c.rope.max_positions);

  set_shared(c, config, sees_all);
  set_experts(c, config);
  c.d_per_layer =
      config.integer_or("hidden_size_per_layer_input", 256, 0, limits::d_model);
  if (c.d_per_layer > 0)
    c.per_layer_vocab = config.integer_or(
        "vocab_size_per_layer_input", 262'144, 1, limits::vocab);
  return c;
}

// transformers keeps experts without ".weight", and "switch_glu" is mlx-lm's.
constexpr Rename names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"embed_tokens_per_layer", "ple.embed"},
    {"per_layer_model_projection", "ple.proj"},
    {"per_layer_projection_norm", "ple.norm"},
    {"per_layer_input_gate", "ple.gate_proj"},
    {"per_layer_projection", "ple.down_proj"},
    {"post_per_layer_input_norm", "ln_ple_post"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln1_post"},
    {"pre_feedforward_layernorm", "ln2"},
    {"post_feedforward_layernorm", "ln2_post"},
    {"post_feedforward_layernorm_1", "ln_mlp_post"},
    {"post_feedforward_layernorm_2", "ln_moe_post"},
    {"pre_feedforward_layernorm_2", "moe.ln"},
    {"experts", "moe.experts"},
    {"experts.switch_glu", "experts"},
    {"experts.gate_up_proj", "experts.gate_up_proj.weight"},
    {"experts.down_proj", "experts.down_proj.weight"},
    {"router.scale", "moe.router_norm.weight"},
    {"router.per_expert_scale", "moe.expert_scale"},
    {"router.proj", "moe.router"},
    {"norm", "ln_final", /*at_start=*/true},
    {"lm_head", "unembed"},
};

constexpr Fused fused[] = {gate_up_stack};

}  // namespace

extern const Family gemma4_family;
const Family gemma4_family = {"gemma4_text", gemma4, names, fused};

}  // namespace mlxterp
