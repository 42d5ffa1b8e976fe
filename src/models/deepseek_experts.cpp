#include "models/deepseek_experts.h"

#include <algorithm>

#include "core/fail.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

void set_deepseek_experts(
    const ConfigReader& config,
    const DeepseekExperts& defaults,
    DecoderConfig& c) {
  const auto count = [&](const char* field, int usual, int most) {
    return usual > 0 ? config.integer_or(field, usual, 1, most)
                     : config.integer(field, 1, most);
  };
  nn::MoEConfig moe{.d_model = c.d_model, .activation = c.activation};
  moe.d_mlp = count("moe_intermediate_size", defaults.d_mlp, limits::d_mlp);
  moe.n_experts = count("n_routed_experts", defaults.count, limits::heads);
  moe.top_k = count("num_experts_per_tok", defaults.top_k, moe.n_experts);
  moe.normalize = config.boolean("norm_topk_prob", defaults.normalize);
  moe.d_shared =
      moe.d_mlp * count("n_shared_experts", defaults.n_shared, limits::heads);
  auto& routing = moe.routing;
  routing.sigmoid = routing.corrected = routing.by_two = true;
  routing.epsilon = 1e-20f;
  routing.scale = config.positive("routed_scaling_factor", defaults.scale);
  routing.n_groups = count("n_group", defaults.n_groups, moe.n_experts);
  routing.top_groups =
      count("topk_group", defaults.top_groups, routing.n_groups);
  const int in_group = moe.n_experts / routing.n_groups;
  if (in_group * routing.n_groups != moe.n_experts ||
      moe.top_k > in_group * routing.top_groups ||
      (routing.n_groups > 1 && in_group < 2))
    fail(
        ErrorKind::bad_data,
        "[config.json] {} experts in {} groups, of which {} are chosen, do not "
        "give a token its {} experts; n_routed_experts, n_group, topk_group "
        "and num_experts_per_tok must fit together",
        moe.n_experts,
        routing.n_groups,
        routing.top_groups,
        moe.top_k);
  if (config.has("moe_layer_freq") && config.json()["moe_layer_freq"] != 1)
    fail(
        ErrorKind::bad_data,
        "[config.json] 'moe_layer_freq' is {}; every layer behind the first "
        "dense ones must have experts, 1",
        printable(config.json()["moe_layer_freq"].dump()));
  c.moe = moe;
  const int dense = config.integer_or(
      "first_k_dense_replace", defaults.first_dense, 0, limits::layers);
  c.dense.assign(static_cast<size_t>(c.n_layers), false);
  std::fill_n(c.dense.begin(), std::min(dense, c.n_layers), true);
}

}  // namespace mlxterp
