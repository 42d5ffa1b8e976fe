// models/opt.cpp: OPT (Zhang et al., 2022), the sizes whose norms stand before
// attention and MLP: all but 350m.

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig opt(const std::string& json) {
  const ConfigReader config(json);
  auto c = sized_config(config);
  const bool projects =
      config.has("word_embed_proj_dim") &&
      config.integer("word_embed_proj_dim", 1, limits::d_model) != c.d_model;
  if (projects || !config.boolean("do_layer_norm_before", true) ||
      !config.boolean("layer_norm_elementwise_affine", true) ||
      config.boolean("_remove_final_layer_norm", false))
    fail(
        ErrorKind::bad_data,
        "[config.json] this OPT projects its embeddings or places its norms "
        "differently (as opt-350m does), which is not supported");
  c.d_mlp = config.integer("ffn_dim", 1, limits::d_mlp);
  c.context =
      config.integer_or("max_position_embeddings", 2048, 1, limits::d_mlp);
  c.positions = c.context + 2;  // the first two rows are never used
  c.position_offset = 2;
  const bool bias = config.boolean("enable_bias", true);
  c.norm = {.kind = nn::NormConfig::Kind::layer, .eps = 1e-5f, .bias = true};
  c.activation = activation_of(config, "activation_function", "relu");
  c.gated = false;
  c.qkv_bias = c.attn_out_bias = c.mlp_bias = bias;
  c.tied = config.boolean("tie_word_embeddings", true);
  return c;
}

constexpr Rename names[] = {
    {"model", ""},
    {"decoder.final_layer_norm", "ln_final"},
    {"decoder", ""},
    {"embed_tokens", "embed"},
    {"embed_positions", "pos_embed"},
    {"self_attn_layer_norm", "ln1"},
    {"self_attn", "attn"},
    {"attn.out_proj", "attn.o_proj"},
    {"fc1", "mlp.up_proj"},
    {"fc2", "mlp.down_proj"},
    {"final_layer_norm", "ln2"},
    {"lm_head", "unembed"},
};

}  // namespace

extern const Family opt_family;
const Family opt_family = {"opt", opt, names};

}  // namespace mlxterp
