// models/ministral3.cpp: Ministral 3 (Mistral AI, 2025), also the text part of
// Mistral 3: Mistral whose queries grow with their position.

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "models/common.h"

namespace mlxterp {

namespace {

constexpr int usual_context = 262'144;

// With the rotation that a config means that says nothing of one.
ConfigReader with_rotation(const std::string& json) {
  const ConfigReader config(json);
  if (config.has("rope_parameters") || config.has("rope_scaling"))
    return config;
  auto fields = config.json();
  fields["rope_parameters"] = {
      {"rope_type", "yarn"},
      {"rope_theta", 1'000'000.0},
      {"factor", 16.0},
      {"original_max_position_embeddings", 16'384},
      {"mscale", 1.0},
      {"mscale_all_dim", 1.0},
      {"llama_4_scaling_beta", 0.1}};
  return ConfigReader(std::move(fields));
}

DecoderConfig ministral3(const std::string& json) {
  const auto config = with_rotation(json);
  auto c = common_config(
      config,
      {.kv_heads = 8, .d_head = 128, .context = usual_context, .eps = 1e-5f});
  c.windows = windows_of(config, c.n_layers, 0, [](int) { return true; });
  const auto rotation = config.object(
      config.has("rope_parameters") ? "rope_parameters" : "rope_scaling");
  c.q_scale.emplace();
  c.q_scale->beta = rotation.positive("llama_4_scaling_beta");
  // Where a stretched rotation finds it, too; others must say it themselves.
  constexpr const char* original = "original_max_position_embeddings";
  const auto& kind = c.rope.kind;
  const bool stretched =
      kind == "yarn" || kind == "llama3" || kind == "longrope" || kind == "su";
  const auto& place =
      stretched && config.json().contains(original) ? config : rotation;
  if (stretched && !place.json().contains(original))
    c.q_scale->every = config.integer_or(
        "max_position_embeddings", usual_context, 1, limits::dim);
  else
    c.q_scale->every = place.integer(original, 1, limits::dim);
  return c;
}

}  // namespace

extern const Family ministral3_family;
const Family ministral3_family = {"ministral3", ministral3, llama_names};

}  // namespace mlxterp
