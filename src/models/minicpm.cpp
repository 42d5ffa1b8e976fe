// models/minicpm.cpp: MiniCPM (Hu et al., 2024): Llama with multipliers that
// follow from its depth and width.

#include <cmath>

#include "core/fail.h"
#include "models/common.h"

namespace mlxterp {

namespace {

DecoderConfig minicpm(const std::string& json) {
  const ConfigReader config(json);
  for (const char* field : {"attention_bias", "num_experts", "sparse_config"})
    if (config.has(field) && config.json()[field] != 0 &&
        config.json()[field] != false)
      fail(
          ErrorKind::bad_data,
          "[config.json] '{}' is not supported; only dense MiniCPM models "
          "without biases are",
          field);
  check_scaling_type(config);
  auto c = common_config(config, {.tied = true});
  c.embed_factor = config.positive("scale_emb", 1.0f);
  c.residual_scale = config.positive("scale_depth", 1.0f) /
                     std::sqrt(static_cast<float>(c.n_layers));
  c.logit_scale =
      config.positive("dim_model_base", 1.0f) / static_cast<float>(c.d_model);
  return c;
}

}  // namespace

extern const Family minicpm_family;
const Family minicpm_family = {"minicpm", minicpm, llama_names};

}  // namespace mlxterp
