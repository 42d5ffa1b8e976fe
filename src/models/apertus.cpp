// models/apertus.cpp: Apertus (Swiss AI, 2025), whose activation is learned.

#include "models/common.h"

namespace mlxterp {

namespace {

// What all families share, read where the config says nothing of the rotation
// as this family's, theta and all, and without the activation.
ConfigReader shared_part(const ConfigReader& config) {
  auto fields = config.json();
  fields.erase("hidden_act");
  const auto none = [&](const char* field) {
    return !config.has(field) || fields[field].empty();
  };
  if (none("rope_parameters") && none("rope_scaling"))
    fields["rope_parameters"] = {
        {"rope_type", "llama3"},
        {"rope_theta", 12e6},
        {"factor", 8.0},
        {"original_max_position_embeddings", 8192},
        {"low_freq_factor", 1.0},
        {"high_freq_factor", 4.0}};
  return ConfigReader(std::move(fields));
}

DecoderConfig apertus(const std::string& json) {
  const ConfigReader config(json);
  auto c = common_config(
      shared_part(config), {.theta = 12e6f, .context = 65'536, .eps = 1e-5f});
  c.qkv_bias = c.attn_out_bias = config.boolean("attention_bias", false);
  c.qk_norm = nn::AttentionConfig::QkNorm::head;
  c.activation = config.text_or("hidden_act", "xielu") == "xielu"
                     ? nn::Activation::xielu
                     : activation_of(config, "hidden_act", "xielu");
  c.gated = false;
  return c;
}

constexpr Rename names[] = {
    {"model", ""},
    {"embed_tokens", "embed"},
    {"attention_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"feedforward_layernorm", "ln2"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
};

}  // namespace

extern const Family apertus_family;
const Family apertus_family = {"apertus", apertus, names};

}  // namespace mlxterp
