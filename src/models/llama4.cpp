// models/llama4.cpp: the text part of Llama 4 (Meta, 2025), and MobileLLM-R1,
// its shape without experts: stretches of attention, and layers between that
// see everything and do not rotate.

#include <algorithm>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"
#include "models/experts.h"

namespace mlxterp {

namespace {

// A list that may be absent, null or empty, and then is `usual`.
bool listed(const ConfigReader& config, const char* field) {
  if (!config.has(field)) return false;
  if (!config.json()[field].is_array())
    fail(ErrorKind::bad_data, "[config.json] '{}' is not a list", field);
  return true;
}

// Of each layer, whether it does not rotate. The field of that name has a 1
// where it does.
std::vector<bool> without_rope(const ConfigReader& config, int n_layers) {
  constexpr const char* field = "no_rope_layers";
  std::vector<bool> out;
  const int every =
      config.integer_or("no_rope_layer_interval", 4, 1, limits::layers);
  for (int i = 0; i < n_layers; ++i)
    out.push_back((i + 1) % every == 0);
  if (!listed(config, field) || config.json()[field].empty()) return out;
  const auto& list = config.json()[field];
  if (list.size() < out.size())
    fail(
        ErrorKind::bad_data,
        "[config.json] 'no_rope_layers' has {} entries; the model has {} "
        "layers",
        list.size(),
        n_layers);
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_number_integer() || (list[i] != 0 && list[i] != 1))
      fail(
          ErrorKind::bad_data,
          "[config.json] 'no_rope_layers' has {}; known: 1 for a layer that "
          "rotates, 0 for one that does not",
          printable(list[i].dump()));
    if (i < out.size()) out[i] = list[i] == 0;
  }
  return out;
}

// The stretches that layers see.
std::vector<int> chunks_of(const ConfigReader& config, const DecoderConfig& c) {
  const int chunk =
      config.null("attention_chunk_size")
          ? 0
          : config.integer_or("attention_chunk_size", 8192, 1, limits::dim);
  std::vector<int> out;
  for (const bool whole : c.no_rope)
    out.push_back(whole ? 0 : chunk);
  if (!config.has("layer_types")) return out;
  const auto types = config.texts("layer_types", out.size());
  for (size_t i = 0; i < out.size(); ++i) {
    const bool chunked = types[i] == "chunked_attention";
    if (!chunked && types[i] != "full_attention")
      fail(
          ErrorKind::bad_data,
          "[config.json] 'layer_types' names '{}'; known: full_attention, "
          "chunked_attention",
          printable(types[i]));
    if (chunked && chunk == 0)
      fail(
          ErrorKind::bad_data,
          "[config.json] 'layer_types' names chunked_attention, and "
          "'attention_chunk_size' is null; give the size");
    out[i] = chunked ? chunk : 0;
  }
  return out;
}

// Which layers have an MLP in place of experts.
std::vector<bool> dense_layers(const ConfigReader& config, int n_layers) {
  std::vector<bool> out(static_cast<size_t>(n_layers), true);
  if (!listed(config, "moe_layers")) {
    const int every =
        config.integer_or("interleave_moe_layer_step", 1, 1, limits::layers);
    for (int i = every - 1; i < n_layers; i += every)
      out[static_cast<size_t>(i)] = false;
    return out;
  }
  for (const auto& layer : config.json()["moe_layers"]) {
    if (!layer.is_number_unsigned() || layer.get<uint64_t>() >= out.size())
      fail(
          ErrorKind::bad_data,
          "[config.json] 'moe_layers' names {}; the model has {} layers",
          printable(layer.dump()),
          n_layers);
    out[layer.get<size_t>()] = false;
  }
  return out;
}

void set_experts(const ConfigReader& config, DecoderConfig& c) {
  const int own = c.d_mlp;
  c.d_mlp =
      config.integer_or("intermediate_size_mlp", 16'384, 1, limits::d_mlp);
  c.dense = dense_layers(config, c.n_layers);
  if (std::ranges::find(c.dense, false) == c.dense.end()) {
    c.dense.clear();
    return;
  }
  nn::MoEConfig moe{.d_model = c.d_model, .d_mlp = own};
  moe.n_experts = config.integer_or("num_local_experts", 16, 1, limits::heads);
  moe.top_k = config.integer_or("num_experts_per_tok", 1, 1, moe.n_experts);
  moe.normalize = false;
  moe.weigh_input = moe.routing.sigmoid = true;
  moe.activation = c.activation;
  moe.d_shared = own;
  c.moe = moe;
}

// Older files give a number, of which 0 is none.
bool tunes_temperature(const ConfigReader& config) {
  constexpr const char* field = "attn_temperature_tuning";
  if (config.has(field) && config.json()[field].is_number_integer())
    return config.integer(field, 0, limits::dim) != 0;
  return config.boolean(field, true);
}

DecoderConfig llama4(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(
      config,
      {.theta = 500'000.0f,
       .kv_heads = 8,
       .d_head = 128,
       .context = 131'072,
       .eps = 1e-5f});
  c.rope.interleaved = true;
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.no_rope = without_rope(config, c.n_layers);
  c.chunks = chunks_of(config, c);
  // Lengths are taken out behind the rotation, and where there is none, left.
  if (config.boolean("use_qk_norm", true)) {
    c.qk_norm = nn::AttentionConfig::QkNorm::head;
    c.qk_norm_config.gain = false;
    c.qk_norm_rotated = true;
    c.no_qk_norm = c.no_rope;
  }
  if (tunes_temperature(config)) {
    c.q_scale.emplace();
    c.q_scale->beta = config.positive("attn_scale", 0.1f);
    c.q_scale->every = config.integer_or("floor_scale", 8192, 1, limits::dim);
    c.q_scale->first = 1;
    c.no_q_scale = c.no_rope;
    c.no_q_scale.flip();
    if (std::ranges::find(c.no_rope, true) == c.no_rope.end())
      c.q_scale.reset();
  }
  set_experts(config, c);
  return c;
}

// transformers keeps experts without ".weight", as [in, out]; mlx-lm splits
// them, [out, in].
constexpr Rename names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
    {"feed_forward", "mlp"},
    {"experts.gate_up_proj", "experts.gate_up_proj.weight"},
    {"experts.down_proj", "experts.down_proj.weight"},
};

constexpr Fused fused[] = {gate_up_stack};
constexpr std::string_view transposed[] = {
    "experts.gate_up_proj", "experts.down_proj"};

}  // namespace

extern const Family llama4_family;
const Family llama4_family = {
    .model_type = "llama4_text",
    .configure = llama4,
    .renames = names,
    .fused = fused,
    .transposed = transposed,
    .already_transposed_suffix = ".weight"};

}  // namespace mlxterp
