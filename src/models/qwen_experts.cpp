#include "models/qwen_experts.h"

#include "core/fail.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

void set_qwen_experts(
    const ConfigReader& config, const QwenExperts& defaults, DecoderConfig& c) {
  c.moe = {
      .d_model = c.d_model,
      .d_mlp = config.integer_or(
          "moe_intermediate_size", defaults.d_mlp, 1, limits::d_mlp),
      .n_experts = config.integer_or(
          defaults.count_field, defaults.count, 1, limits::heads),
      .normalize = config.boolean("norm_topk_prob", defaults.normalize),
      .activation = c.activation,
  };
  c.moe->top_k = config.integer_or(
      "num_experts_per_tok", defaults.top_k, 1, c.moe->n_experts);
  // Every decoder_sparse_step-th layer chooses, unless it is listed as an MLP.
  const int step =
      config.integer_or("decoder_sparse_step", 1, 1, limits::layers);
  c.dense.assign(static_cast<size_t>(c.n_layers), false);
  for (int i = 0; i < c.n_layers; ++i)
    c.dense[static_cast<size_t>(i)] = (i + 1) % step != 0;
  if (config.has("mlp_only_layers") &&
      !config.json()["mlp_only_layers"].is_array())
    fail(
        ErrorKind::bad_data,
        "[config.json] 'mlp_only_layers' is not a list of layers");
  if (config.has("mlp_only_layers"))
    for (const auto& layer : config.json()["mlp_only_layers"]) {
      if (!layer.is_number_unsigned() ||
          layer.get<uint64_t>() >= c.dense.size())
        fail(
            ErrorKind::bad_data,
            "[config.json] 'mlp_only_layers' names {}; the model has {} layers",
            printable(layer.dump()),
            c.n_layers);
      c.dense[layer.get<size_t>()] = true;
    }
}

}  // namespace mlxterp
