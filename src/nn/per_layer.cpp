#include "mlxterp/nn/per_layer.h"

#include <cmath>
#include <numbers>

#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

constexpr const char* carried_as = "ple";

mx::array times(const mx::array& x, float factor) {
  return mx::multiply(x, mx::array(factor, x.dtype()));
}

}  // namespace

PerLayerEmbedding::PerLayerEmbedding(const PerLayerConfig& config)
    : embed(
          config.vocab,
          config.n_layers * config.d,
          std::sqrt(static_cast<float>(config.d))),
      proj(config.d_model, config.n_layers * config.d),
      // Its axis of layers is nobody's heads.
      norm(mx::Shape{config.d}, config.norm, {.layout = Layout::other}),
      config_(config) {
  describe({.width = config.d_model}, {.width = config.n_layers * config.d});
  add("embed", embed);
  add("proj", proj);
  add("norm", norm);
}

mx::array PerLayerEmbedding::forward(const mx::array&, Pass&) const {
  fail(
      ErrorKind::usage,
      "[PerLayerEmbedding] it needs token ids, too; call carry()");
}

void PerLayerEmbedding::carry(
    const mx::array& ids, const mx::array& x, Pass& pass) const {
  const auto token = embed(ids, pass);
  const float root = std::sqrt(static_cast<float>(config_.d_model));
  const auto context = times(proj(tap_input(pass, x), pass), 1 / root);
  const auto by_layer = mx::reshape(
      context, {x.shape(0), x.shape(1), config_.n_layers, config_.d});
  const auto normed = mx::reshape(norm(by_layer, pass), token.shape());
  const auto both =
      times(mx::add(normed, token), 1 / std::numbers::sqrt2_v<float>);
  pass.carried().insert_or_assign(carried_as, tap_output(pass, both));
}

PerLayerInput::PerLayerInput(const PerLayerConfig& config, int layer)
    : gate_proj(config.d_model, config.d),
      down_proj(config.d, config.d_model),
      activation_(config.activation),
      layer_(layer),
      d_(config.d) {
  describe({.width = config.d_model}, {.width = config.d_model});
  add("gate_proj", gate_proj);
  add("down_proj", down_proj);
  alias("pre", "gate_proj.output");
  embedding_ = site("embedding", {.width = config.d});
  alias("post", "down_proj.input");
}

mx::array PerLayerInput::forward(const mx::array& x, Pass& pass) const {
  const auto& all = find(pass.carried(), carried_as);
  const auto own = mx::slice(
      all,
      {0, 0, layer_ * d_},
      {all.shape(0), all.shape(1), (layer_ + 1) * d_});
  const auto gate = gate_proj(x, pass);
  const auto factor = tap(pass, embedding_, pass.gather_output_rows(own));
  return down_proj(activate(activation_, gate, factor), pass);
}

}  // namespace mlxterp::nn
