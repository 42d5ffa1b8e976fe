// models/gpt2.cpp: GPT-2 (Radford et al., 2019) and GPTBigCode (Allal et al.,
// 2023), StarCoder's first form: GPT-2 with one key and value head.

#include "core/fail.h"
#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig any_gpt2(const ConfigReader& config) {
  auto c = gpt_config(config, /*tied=*/true, /*context=*/1024);
  c.positions = c.context;
  c.qkv_bias = c.attn_out_bias = true;
  if (!config.boolean("scale_attn_weights", true)) c.attention_scale = 1.0f;
  if (config.boolean("add_cross_attention", false))
    fail(
        ErrorKind::bad_data,
        "[config.json] 'add_cross_attention' is not supported");
  return c;
}

DecoderConfig gpt2(const std::string& json) {
  const ConfigReader config(json);
  auto c = any_gpt2(config);
  c.scale_by_layer = config.boolean("scale_attn_by_inverse_layer_idx", false);
  return c;
}

DecoderConfig gpt_bigcode(const std::string& json) {
  const ConfigReader config(json);
  auto c = any_gpt2(config);
  if (config.boolean("multi_query", true)) c.n_kv_heads = 1;
  return c;
}

// mlx-lm's "model" stands beside transformers' own prefix.
constexpr Rename names[] = {
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

constexpr std::string_view transposed[] = {
    "attn.qkv_proj", "attn.o_proj", "mlp.up_proj", "mlp.down_proj"};

constexpr Fused fused[] = {{"attn.qkv_proj", q_k_v}};
constexpr Fused bigcode_fused[] = {
    {"attn.qkv_proj", q_k_v, Fused::per_kv_head}};

}  // namespace

extern const Family gpt2_family, gpt_bigcode_family;
// mlx-lm saves those matrices transposed.
const Family gpt2_family = {
    "gpt2",
    gpt2,
    names,
    fused,
    transposed,
    /*already_transposed_prefix=*/"model.h."};
const Family gpt_bigcode_family = {
    "gpt_bigcode", gpt_bigcode, names, bigcode_fused};

}  // namespace mlxterp
