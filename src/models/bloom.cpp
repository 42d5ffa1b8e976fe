// models/bloom.cpp: BLOOM (BigScience, 2022).

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

// Of two spellings, the one that is there; the first counts more.
const char* either(
    const ConfigReader& config, const char* first, const char* second) {
  if (config.has(first)) return first;
  if (config.json().contains(second)) return second;
  if (config.json().contains(first)) return first;  // null
  fail(
      ErrorKind::bad_data,
      "[config.json] the field '{}' (or '{}') is missing",
      first,
      second);
}

DecoderConfig bloom(const std::string& json) {
  const ConfigReader config(json);
  auto c = sized_config(
      config,
      {either(config, "n_embed", "hidden_size"),
       either(config, "n_layer", "num_hidden_layers"),
       either(config, "n_head", "num_attention_heads")});
  if (config.boolean("apply_residual_connection_post_layernorm", false))
    fail(
        ErrorKind::bad_data,
        "[config.json] 'apply_residual_connection_post_layernorm' is true, "
        "which is not supported: the residual stream would be what the norms "
        "give");
  c.d_mlp = 4 * c.d_model;
  // Nothing bounds it but what the model was trained on.
  c.context = config.integer_or("seq_length", 2048, 1, limits::dim);
  c.norm = layer_norm(config, "layer_norm_epsilon", true);
  c.embed_norm = true;
  c.alibi.slopes = nn::alibi_slopes(c.n_heads);
  c.activation = nn::Activation::gelu_tanh;
  c.gated = false;
  c.qkv_bias = c.attn_out_bias = c.mlp_bias = true;
  c.tied = config.boolean("tie_word_embeddings", true);
  return c;
}

constexpr Rename names[] = {
    {"transformer", ""},
    {"word_embeddings", "embed"},
    {"word_embeddings_layernorm", "embed.ln"},
    {"h", "layers"},
    {"input_layernorm", "ln1"},
    {"self_attention", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"attn.query_key_value", "attn.qkv_proj"},
    {"attn.dense", "attn.o_proj"},
    {"mlp.dense_h_to_4h", "mlp.up_proj"},
    {"mlp.dense_4h_to_h", "mlp.down_proj"},
    {"ln_f", "ln_final"},
    {"lm_head", "unembed"},
};

constexpr Fused fused[] = {{"attn.qkv_proj", q_k_v, Fused::per_kv_head}};

}  // namespace

extern const Family bloom_family;
const Family bloom_family = {"bloom", bloom, names, fused};

}  // namespace mlxterp
