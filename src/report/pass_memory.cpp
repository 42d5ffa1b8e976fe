#include "report/pass_memory.h"

#include <algorithm>
#include <bit>

#include "mlx/device.h"
#include "mlxterp/nn/delta_net.h"
#include "mlxterp/nn/short_conv.h"
#include "mlxterp/nn/state_space.h"

namespace mx = mlx::core;

namespace mlxterp::report {

namespace {

constexpr double float_bytes = 4;

// Of a layer, by number where it has one of its own.
int own(const std::vector<int>& layers, int layer, int all) {
  return layers.empty() ? all : layers[static_cast<size_t>(layer)];
}

// A convolution's padded input, each of its taps and their sums, of which MLX
// has several on their way, and what the activation makes of them, float32.
double convolved(double channels, int width, int tokens) {
  return float_bytes * (3.0 + 2 * width) * channels * tokens;
}

// What a recurrence makes in chunks (src/nn/delta_rule.cpp), float32: keys and
// queries of each head, decayed in both ways, the values, the products of a
// chunk's positions with each other (to invert one of them takes many), and the
// memory as it was, is and will be.
double recurred(
    double heads, double d_key, double d_value, int tokens, bool corrects) {
  const int rows = std::min(
      64, static_cast<int>(std::bit_ceil(static_cast<unsigned>(tokens))));
  const int padded = (tokens + rows - 1) / rows * rows;
  const double keys = corrects ? 8 : 6, values = corrects ? 6 : 5;
  const double products = corrects ? 14 : 4;
  return float_bytes * heads *
         (padded * (keys * d_key + values * d_value + products * rows) +
          3 * d_key * d_value);
}

double attended(const DecoderConfig& c, int layer, int tokens, double wide) {
  const double heads = c.n_heads, d = own(c.d_heads, layer, c.d_head),
               kv = c.latent ? heads : own(c.kv_heads, layer, c.n_kv_heads);
  // Fused on a GPU; what a CPU makes are scores, and what softmax leaves.
  const bool scores = mx::default_device() == mx::Device::cpu;
  return wide * tokens * 2 * d * (heads + kv) +
         (scores ? 2 * float_bytes * heads * tokens * tokens : 0);
}

double mixed(const DecoderConfig& c, int layer, int tokens, double wide) {
  if (!c.mixer) return attended(c, layer, tokens, wide);
  const auto mixer = c.mixer(c, layer);
  if (const auto* ssm = dynamic_cast<const nn::StateSpace*>(mixer.get())) {
    const auto& it = ssm->config();
    const double inner = it.n_heads * it.d_head;
    return convolved(
               inner + 2.0 * it.n_groups * it.d_state, it.conv_width, tokens) +
           3 * wide * inner * tokens +
           recurred(it.n_heads, it.d_state, it.d_head, tokens, false);
  }
  if (const auto* delta = dynamic_cast<const nn::DeltaNet*>(mixer.get())) {
    const auto& it = delta->config();
    const double values = it.n_value_heads * it.d_value;
    return convolved(
               2.0 * it.n_key_heads * it.d_key + values,
               it.conv_width,
               tokens) +
           3 * wide * values * tokens +
           recurred(it.n_value_heads, it.d_key, it.d_value, tokens, true);
  }
  if (const auto* conv = dynamic_cast<const nn::ShortConv*>(mixer.get()))
    return convolved(c.d_model, conv->conv.weight.shape(1), tokens) +
           6 * wide * c.d_model * tokens;
  return attended(c, layer, tokens, wide);
}

double feeding(const DecoderConfig& c, int layer, int tokens, double wide) {
  double width = own(c.d_mlps, layer, c.d_mlp);
  if (c.moe) {
    const double experts = c.moe->top_k * c.moe->d_mlp + c.moe->d_shared;
    width = c.moe_beside ? width + experts : std::max(width, experts);
  }
  return 3 * wide * width * tokens;
}

}  // namespace

double pass_bytes(const DecoderConfig& config, int tokens, double wide) {
  double most = 0;
  for (int layer = 0; layer < config.n_layers; ++layer)
    most = std::max(
        most,
        mixed(config, layer, tokens, wide) +
            feeding(config, layer, tokens, wide));
  return most + wide * tokens * (config.vocab + 6.0 * config.d_model);
}

}  // namespace mlxterp::report
