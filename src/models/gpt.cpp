// models/gpt.cpp: GPT-2 (Radford et al., 2019), GPT-J (Wang and Komatsuzaki,
// 2021), GPT-NeoX and Pythia (Black et al., 2022).

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

// The sizes under the names that GPT-2 and GPT-J have for them.
DecoderConfig sizes(const ConfigReader& config, bool tied) {
  DecoderConfig c;
  c.model_type = config.text("model_type");
  c.vocab = config.integer("vocab_size", 1, limits::vocab);
  c.d_model = config.integer("n_embd", 1, limits::d_model);
  c.n_layers = config.integer("n_layer", 1, limits::layers);
  c.n_heads = c.n_kv_heads = config.integer("n_head", 1, limits::heads);
  if (c.d_model % c.n_heads != 0)
    fail(
        ErrorKind::bad_data,
        "[config.json] n_embd {} is no multiple of n_head {}",
        c.d_model,
        c.n_heads);
  c.d_head = c.d_model / c.n_heads;
  c.d_mlp = config.integer_or("n_inner", 4 * c.d_model, 1, limits::d_mlp);
  c.context = config.integer_or("n_positions", 1024, 1, limits::dim);
  c.norm = {
      .kind = nn::NormConfig::Kind::layer,
      .eps = config.positive("layer_norm_epsilon", 1e-5f),
      .bias = true};
  c.activation = activation_of(config, "activation_function", "gelu_new");
  c.gated = false;
  c.mlp_bias = true;
  c.tied = config.boolean("tie_word_embeddings", tied);
  return c;
}

DecoderConfig gpt2(const std::string& json) {
  const ConfigReader config(json);
  auto c = sizes(config, /*tied=*/true);
  c.positions = c.context;
  c.qkv_bias = c.attn_out_bias = true;
  if (!config.boolean("scale_attn_weights", true)) c.attention_scale = 1.0f;
  c.scale_by_layer = config.boolean("scale_attn_by_inverse_layer_idx", false);
  if (config.boolean("add_cross_attention", false))
    fail(
        ErrorKind::bad_data,
        "[config.json] 'add_cross_attention' is not supported");
  return c;
}

DecoderConfig gptj(const std::string& json) {
  const ConfigReader config(json);
  auto c = sizes(config, /*tied=*/false);
  c.parallel = c.shared_norm = true;
  c.rope = {
      .dims = config.integer_or("rotary_dim", c.d_head, 2, c.d_head),
      .interleaved = true};
  if (c.rope.dims % 2 != 0)
    fail(
        ErrorKind::bad_data,
        "[config.json] 'rotary_dim' {} is odd; rotation turns pairs",
        c.rope.dims);
  c.unembed_bias = !c.tied;
  return c;
}

DecoderConfig gpt_neox(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(config);
  c.norm = {
      .kind = nn::NormConfig::Kind::layer,
      .eps = config.positive("layer_norm_eps", 1e-5f),
      .bias = true};
  c.parallel = config.boolean("use_parallel_residual", true);
  c.activation = activation_of(config, "hidden_act", "gelu");
  c.gated = false;
  c.mlp_bias = true;
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", true);
  // Its older names for the rotation.
  c.rope = rope_of(
      config,
      c.d_head,
      c.context,
      {.theta = config.positive("rotary_emb_base", 10000.0f),
       .part = config.positive("rotary_pct", 0.25f)});
  return c;
}

// Of all three, mlx-lm's "model" stands beside transformers' own prefix.
constexpr Rename gpt2_names[] = {
    {"transformer", ""},
    {"model", ""},
    {"wte", "embed"},
    {"wpe", "pos_embed"},
    {"h", "layers"},
    {"ln_1", "ln1"},
    {"ln_2", "ln2"},
    {"attn.c_attn", "attn.qkv_proj"},
    {"attn.c_proj", "attn.o_proj"},
    {"mlp.c_fc", "mlp.up_proj"},
    {"mlp.c_proj", "mlp.down_proj"},
    {"ln_f", "ln_final"},
    {"lm_head", "unembed"},
};

constexpr std::string_view gpt2_transposed[] = {
    "attn.qkv_proj", "attn.o_proj", "mlp.up_proj", "mlp.down_proj"};

constexpr Rename gptj_names[] = {
    {"transformer", ""},
    {"model", ""},
    {"wte", "embed"},
    {"h", "layers"},
    {"ln_1", "ln1"},
    {"attn.out_proj", "attn.o_proj"},
    {"mlp.fc_in", "mlp.up_proj"},
    {"mlp.fc_out", "mlp.down_proj"},
    {"ln_f", "ln_final"},
    {"lm_head", "unembed"},
};

constexpr Rename gpt_neox_names[] = {
    {"gpt_neox", ""},
    {"model", ""},
    {"h", "layers"},
    {"embed_in", "embed"},
    {"input_layernorm", "ln1"},
    {"post_attention_layernorm", "ln2"},
    {"attention", "attn"},
    {"attn.query_key_value", "attn.qkv_proj"},
    {"attn.dense", "attn.o_proj"},
    {"mlp.dense_h_to_4h", "mlp.up_proj"},
    {"mlp.dense_4h_to_h", "mlp.down_proj"},
    {"final_layer_norm", "ln_final"},
    {"embed_out", "unembed"},
};

constexpr Fused gpt2_fused[] = {{"attn.qkv_proj", q_k_v}};
constexpr Fused gpt_neox_fused[] = {{"attn.qkv_proj", q_k_v, /*by_head=*/true}};

}  // namespace

extern const Family gpt2_family, gptj_family, gpt_neox_family;
// mlx-lm saves those matrices turned.
const Family gpt2_family = {
    "gpt2", gpt2, gpt2_names, gpt2_fused, gpt2_transposed, "model.h."};
const Family gptj_family = {"gptj", gptj, gptj_names};
const Family gpt_neox_family = {
    "gpt_neox", gpt_neox, gpt_neox_names, gpt_neox_fused};

}  // namespace mlxterp
