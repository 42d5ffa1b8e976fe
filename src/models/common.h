// models/common.h: what the families' configs have in common.

#pragma once

#include <array>
#include <functional>
#include <string_view>

#include "mlxterp/models/family.h"
#include "models/config_reader.h"

namespace mlxterp {

/** What a family means by a field that its config.json leaves out: the defaults
 * of its config class in transformers, since whoever saves a config may leave
 * them out. tests/parity/defaults.json holds all of them. */
struct CommonDefaults {
  bool tied = false;
  float theta = 10000.0f;
  int kv_heads = 0;  ///< 0: as many as heads.
  int d_head = 0;    ///< 0: hidden_size / num_attention_heads.
  int context = 2048;
  float eps = 1e-6f;  ///< Of RMS norm.
};

/** The fields that most families share, under their common names: sizes, heads,
 * RMS norm, SiLU, the rotation. A family then says what it does otherwise. The
 * sizes vocab_size, hidden_size, num_hidden_layers, num_attention_heads and
 * intermediate_size have no default here though they have one in transformers,
 * that of the family's first model: a config without them is a broken one. */
DecoderConfig common_config(
    const ConfigReader& config, const CommonDefaults& defaults = {});

/** What a config calls the sizes that all have. */
struct SizeNames {
  const char* d_model = "hidden_size";
  const char* n_layers = "num_hidden_layers";
  const char* n_heads = "num_attention_heads";
};

/** model_type and sizes alone: heads share d_model evenly, and each has keys
 * and values of its own. */
DecoderConfig sized_config(
    const ConfigReader& config, const SizeNames& names = {});

/** The fields of GPT-2 and GPT-J. */
DecoderConfig gpt_config(const ConfigReader& config, bool tied, int context);

/** LayerNorm with the eps of that field. */
nn::NormConfig layer_norm(
    const ConfigReader& config, const char* field, bool bias);

/** The activation that `field` names. */
nn::Activation activation_of(
    const ConfigReader& config, const char* field, const char* fallback);

struct RopeDefaults {
  float theta = 10000.0f;
  float part = 1.0f;  ///< Of d_head that turns.
  /** original_max_position_embeddings; 0: the context. */
  int original = 0;
  /** Which of several rotations in rope_parameters; none: there is one. */
  const char* kind = nullptr;
};

/** The rotation that rope_parameters, or the older rope_theta and rope_scaling,
 * describe: default, linear, dynamic, llama3, yarn, longrope, proportional. */
nn::Rope rope_of(
    const ConfigReader& config,
    int d_head,
    int context,
    const RopeDefaults& defaults = {});

/** Throws bad_data for a rope_scaling that does not say of what type it is,
 * where the family's own code asks for one. */
void check_scaling_type(const ConfigReader& config);

/** The windows of layers whose layer_types say "sliding_attention". Without
 * layer_types: what `otherwise(layer)` says. Without sliding_window: `usual`, 0
 * for none. */
std::vector<int> windows_of(
    const ConfigReader& config,
    int n_layers,
    int usual,
    bool (*otherwise)(int layer));

/** Which layers have attention, by layer_types, which names each
 * "full_attention" or `other`; without it: what `otherwise(layer)` says. */
std::vector<bool> attending_layers(
    const ConfigReader& config,
    int n_layers,
    const char* other,
    const std::function<bool(int layer)>& otherwise);

/** A soft cap; null is none, 0. */
float softcap_of(const ConfigReader& config, const char* field, float usual);

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

/** Those of OLMo 2, whose norms stand behind attention and MLP alone. */
inline constexpr std::array<Rename, 7> post_norm_names = {{
    {"model", ""},
    {"embed_tokens", "embed"},
    {"self_attn", "attn"},
    {"post_attention_layernorm", "ln1_post"},
    {"post_feedforward_layernorm", "ln2_post"},
    {"norm", "ln_final"},
    {"lm_head", "unembed"},
}};

}  // namespace mlxterp
