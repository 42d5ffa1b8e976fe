// models/common.h: what the families' configs have in common.

#pragma once

#include <array>
#include <string_view>

#include "mlxterp/models/family.h"
#include "models/config_reader.h"

namespace mlxterp {

/** The fields that most families share, under their common names: sizes, heads,
 * RMS norm, SiLU, the rotation. A family then says what it does otherwise.
 * Defaults are those of the family in transformers: configs leave them out. */
struct CommonDefaults {
  bool tied = false;
  float theta = 10000.0f;
  int kv_heads = 0;  ///< 0: as many as heads.
};
DecoderConfig common_config(
    const ConfigReader& config, const CommonDefaults& defaults = {});

/** The same under the names of GPT-2 and GPT-J. */
DecoderConfig gpt_config(const ConfigReader& config, bool tied);

/** LayerNorm with the eps of that field. */
nn::NormConfig layer_norm(
    const ConfigReader& config, const char* field, bool bias);

/** The activation that `field` names. */
nn::Activation activation_of(
    const ConfigReader& config, const char* field, const char* fallback);

struct RopeDefaults {
  float theta = 10000.0f;
  float part = 1.0f;  ///< Of d_head that turns.
  /** Which of several rotations in rope_parameters; none: there is one. */
  const char* kind = nullptr;
};

/** The rotation that rope_parameters, or the older rope_theta and rope_scaling,
 * describe: default, linear, dynamic, llama3, yarn, longrope. */
nn::Rope rope_of(
    const ConfigReader& config,
    int d_head,
    int context,
    const RopeDefaults& defaults = {});

/** The windows of layers whose layer_types say "sliding_attention". Without
 * layer_types: what `otherwise(layer)` says. */
std::vector<int> windows_of(
    const ConfigReader& config, int n_layers, bool (*otherwise)(int layer));

/** Throws bad_data where heads do not divide as they must. */
void check_heads(const DecoderConfig& config);

inline constexpr std::array<std::string_view, 3> q_k_v = {
    "attn.q_proj", "attn.k_proj", "attn.v_proj"};
inline constexpr std::array<std::string_view, 2> gate_up = {
    "mlp.gate_proj", "mlp.up_proj"};

/** The names of Llama's checkpoints, which many families took over. */
inline constexpr std::array<Rename, 7> llama_names = {{
    {"model", ""},
    {"embed_tokens", "embed"},
    {"input_layernorm", "ln1"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln2"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
}};

}  // namespace mlxterp
