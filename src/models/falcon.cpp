// models/falcon.cpp: Falcon (Almazrouei et al., 2023): 7B, whose heads share
// one key and value, 40B and 180B, whose groups of heads do, and RW.

#include <algorithm>
#include <cmath>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

bool yes(const ConfigReader& config, const char* field, bool usual) {
  return !config.null(field) && config.boolean(field, usual);
}

// How a layer is put together.
void set_layers(const ConfigReader& config, DecoderConfig& c) {
  const bool grouped = yes(config, "new_decoder_architecture", false);
  const bool shared = yes(config, "multi_query", true);
  const bool parallel = yes(config, "parallel_attn", true);
  c.n_kv_heads = c.n_heads;
  if (config.has("num_kv_heads"))
    c.n_kv_heads = config.integer("num_kv_heads", 1, limits::heads);
  if (!grouped && shared) c.n_kv_heads = 1;
  if (!grouped && !shared && c.n_kv_heads != c.n_heads)
    fail(
        ErrorKind::bad_data,
        "[config.json] 'num_kv_heads' is {}, but without 'multi_query' and "
        "'new_decoder_architecture' it is num_attention_heads, {}",
        c.n_kv_heads,
        c.n_heads);
  const int norms = config.has("num_ln_in_parallel_attn")
                        ? config.integer("num_ln_in_parallel_attn", 1, 2)
                        : (grouped ? 2 : 1);
  if (grouped ? !parallel : norms == 2 && parallel)
    fail(
        ErrorKind::bad_data,
        "[config.json] 'new_decoder_architecture' {}, 'parallel_attn' {} and "
        "{} norm(s) in a layer do not go together",
        grouped,
        parallel,
        norms);
  c.parallel = parallel;
  c.shared_norm = parallel && norms == 1;
}

DecoderConfig falcon(const std::string& json) {
  const ConfigReader config(json);
  // The older name counts more.
  const char* width = config.has("n_embed") ? "n_embed" : "hidden_size";
  auto c = sized_config(config, {.d_model = width});
  c.d_mlp = config.has("ffn_hidden_size")
                ? config.integer("ffn_hidden_size", 1, limits::d_mlp)
                : 4 * c.d_model;
  c.context =
      config.integer_or("max_position_embeddings", 2048, 1, limits::dim);
  set_layers(config, c);
  c.norm = layer_norm(config, "layer_norm_epsilon", true);
  if (yes(config, "alibi", false)) {
    // Added before the scores are scaled.
    c.alibi = {
        .slopes = nn::alibi_slopes(c.n_heads),
        .rounded = true,
        .scale = 1.0f / std::sqrt(static_cast<float>(c.d_head))};
  } else {
    if (c.d_head % 2 != 0)
      fail(
          ErrorKind::bad_data,
          "[config.json] {} / num_attention_heads is {}, which is odd; RoPE "
          "rotates pairs of dimensions",
          width,
          c.d_head);
    c.rope = rope_of(config, c.d_head, c.context);
    c.context = std::max(c.context, c.rope.max_positions);
  }
  c.activation = activation_of(config, "activation", "gelu");
  c.gated = false;
  c.qkv_bias = c.attn_out_bias = c.mlp_bias = yes(config, "bias", false);
  c.tied = config.boolean("tie_word_embeddings", true);
  check_heads(c);
  return c;
}

constexpr Rename names[] = {
    {"transformer", ""},
    {"word_embeddings", "embed"},
    {"h", "layers"},
    {"ln_attn", "ln1"},
    {"input_layernorm", "ln1"},
    {"self_attention", "attn"},
    {"ln_mlp", "ln2"},
    {"post_attention_layernorm", "ln2"},
    {"attn.query_key_value", "attn.qkv_proj"},
    {"attn.dense", "attn.o_proj"},
    {"mlp.dense_h_to_4h", "mlp.up_proj"},
    {"mlp.dense_4h_to_h", "mlp.down_proj"},
    {"ln_f", "ln_final"},
    {"lm_head", "unembed"},
};

// One key and value of all heads, of each, or of each group.
constexpr Fused fused[] = {{"attn.qkv_proj", q_k_v, Fused::per_kv_head}};

}  // namespace

extern const Family falcon_family;
const Family falcon_family = {"falcon", falcon, names, fused};

}  // namespace mlxterp
