// models/mpt.cpp: MPT (MosaicML, 2023).

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

// Where heads are no power of 2: those of the power above it, every other one
// first.
std::vector<float> slopes_of(int heads) {
  const auto all =
      static_cast<int>(std::bit_ceil(static_cast<unsigned>(heads)));
  std::vector<float> slopes;
  const auto add = [&](int first, int step) {
    for (int i = first; i <= all; i += step)
      slopes.push_back(static_cast<float>(std::exp2(-8.0 * i / all)));
  };
  if (all == heads) {
    add(1, 1);
  } else {
    add(2, 2);
    add(1, 2);
    slopes.resize(static_cast<size_t>(heads));
  }
  return slopes;
}

// What transformers passes over where its value is this one, or does not have.
void check_usual(const ConfigReader& config) {
  const auto attn = config.object("attn_config");
  const auto refuse = [](const std::string& field, const std::string& value) {
    fail(
        ErrorKind::bad_data,
        "[config.json] '{}' is {}, which is not supported",
        field,
        printable(value));
  };
  for (const auto& [field, usual] :
       {std::pair{"alibi", true},
        std::pair{"prefix_lm", false},
        std::pair{"qk_ln", false},
        std::pair{"attn_uses_sequence_id", false}})
    if (attn.boolean(field, usual) != usual)
      refuse(fmt::format("attn_config.{}", field), usual ? "false" : "true");
  const auto type = attn.text_or("attn_type", "multihead_attention");
  if (type != "multihead_attention") refuse("attn_config.attn_type", type);
  const int most = attn.integer_or("alibi_bias_max", 8, 1, limits::dim);
  if (most != 8) refuse("attn_config.alibi_bias_max", std::to_string(most));
  if (!config.boolean("no_bias", true)) refuse("no_bias", "false");
  if (config.has("logit_scale"))
    refuse("logit_scale", config.json()["logit_scale"].dump());
  const int ratio = config.integer_or("expansion_ratio", 4, 1, limits::dim);
  if (ratio != 4) refuse("expansion_ratio", std::to_string(ratio));
}

DecoderConfig mpt(const std::string& json) {
  const ConfigReader config(json);
  check_usual(config);
  auto c = sized_config(config, {"d_model", "n_layers", "n_heads"});
  c.d_mlp = 4 * c.d_model;
  c.context = config.integer_or("max_seq_len", 2048, 1, limits::dim);
  c.norm = layer_norm(config, "layer_norm_epsilon", false);
  c.alibi.slopes = slopes_of(c.n_heads);
  const auto attn = config.object("attn_config");
  if (attn.has("softmax_scale"))
    c.attention_scale = attn.positive("softmax_scale");
  if (attn.has("clip_qkv") && attn.json()["clip_qkv"] != 0)
    c.clip_qkv = attn.positive("clip_qkv");
  c.activation = nn::Activation::gelu;
  c.gated = false;
  c.tied = config.boolean("tie_word_embeddings", true);
  return c;
}

constexpr Rename names[] = {
    {"transformer", ""},
    {"wte", "embed"},
    {"blocks", "layers"},
    {"norm_1", "ln1"},
    {"norm_2", "ln2"},
    {"attn.Wqkv", "attn.qkv_proj"},
    {"attn.out_proj", "attn.o_proj"},
    {"ffn", "mlp"},
    {"norm_f", "ln_final"},
    {"lm_head", "unembed"},
};

constexpr Fused fused[] = {{"attn.qkv_proj", q_k_v}};

}  // namespace

extern const Family mpt_family;
const Family mpt_family = {"mpt", mpt, names, fused};

}  // namespace mlxterp
