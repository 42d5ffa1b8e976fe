// tests/tiny_model.h: a small random decoder, for what needs no real weights.

#pragma once

#include <memory>

#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/trace/model.h"

namespace mlxterp::test {

inline DecoderConfig tiny_config() {
  DecoderConfig config;
  config.model_type = "llama";
  config.vocab = 97;
  config.d_model = 24;
  config.n_layers = 3;
  config.n_heads = 6;
  config.n_kv_heads = 2;
  config.d_head = 8;  // on purpose not d_model / n_heads
  config.d_mlp = 40;
  config.context = 64;
  config.rope = {.dims = 8, .theta = 10000.0f};
  return config;
}

/** Evaluated weights, the same in every process. */
inline std::shared_ptr<Decoder> tiny_decoder(
    const DecoderConfig& config = tiny_config()) {
  mlx::core::random::seed(9);
  auto decoder = std::make_shared<Decoder>(config);
  std::vector<mlx::core::array> weights;
  for (const auto& [path, weight] : decoder->parameters())
    weights.push_back(*weight);
  mlx::core::eval(weights);
  return decoder;
}

/** A layer's attention, to change its weights. */
inline nn::Attention& attention(const Decoder& decoder, int layer) {
  return dynamic_cast<nn::Attention&>(
      *decoder.layers.at(static_cast<size_t>(layer))->mixer);
}

inline InterpretableModel tiny_model(
    const DecoderConfig& config = tiny_config()) {
  return InterpretableModel(tiny_decoder(config), {}, families()[0].renames);
}

}  // namespace mlxterp::test
