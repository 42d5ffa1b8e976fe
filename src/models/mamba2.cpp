// models/mamba2.cpp: Mamba-2 (Dao and Gu, 2024) and Codestral Mamba (Mistral
// AI, 2024): state spaces alone, neither attention nor MLPs.

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"
#include "models/state_spaces.h"

namespace mlxterp {

namespace {

constexpr StateSpaceFields fields = {
    .n_heads = {"num_heads", 0},
    .d_head = {"head_dim", 64},
    .n_groups = {"n_groups", 8},
    .d_state = {"state_size", 128},
    .conv_width = {"conv_kernel", 4},
    .expand = {"expand", 2},
    .conv_bias = "use_conv_bias",
    .bias = "use_bias"};

// Their files have norm_before_gate, too, which no model reads: the gate comes
// first.
DecoderConfig mamba2(const std::string& json) {
  const ConfigReader config(json);
  DecoderConfig c;
  c.model_type = config.text("model_type");
  c.vocab = config.integer("vocab_size", 1, limits::vocab);
  c.d_model = config.integer("hidden_size", 1, limits::d_model);
  c.n_layers = config.integer("num_hidden_layers", 1, limits::layers);
  // Nothing bounds it: a state takes the same memory at any length.
  c.context = limits::dim;
  c.norm.eps = config.positive("layer_norm_epsilon", 1e-5f);
  c.activation = activation_of(config, "hidden_act", "silu");
  c.float32_stream = config.boolean("residual_in_fp32", true);
  c.tied = config.boolean("tie_word_embeddings", false);
  if (config.null("time_step_limit"))
    fail(
        ErrorKind::bad_data,
        "[config.json] 'time_step_limit' is null; give the least and the most, "
        "or leave it out");
  const auto ssm = state_space_of(config, c, fields);
  c.mixer = [ssm](const DecoderConfig&, int) -> std::unique_ptr<nn::Mixer> {
    return std::make_unique<nn::StateSpace>(ssm);
  };
  return c;
}

constexpr Rename names[] = {
    {"backbone", ""},
    {"embedding", "embed"},  // as state-spaces' own files have it
    {"embeddings", "embed"},
    {"norm", "ln1"},
    {"mixer.ln1", "mixer.norm"},  // which has one, too
    {"mixer", "ssm"},
    {"ssm.conv1d", "ssm.conv"},
    {"norm_f", "ln_final"},
    {"lm_head", "unembed"},
};

constexpr Fused fused[] = {{.part = "ssm.in_proj", .into = ssm_projections}};

}  // namespace

extern const Family mamba2_family;
const Family mamba2_family = {
    .model_type = "mamba2",
    .configure = mamba2,
    .renames = names,
    .fused = fused,
    .by_head = ssm_by_head};

}  // namespace mlxterp
