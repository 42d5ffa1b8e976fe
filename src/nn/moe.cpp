#include "mlxterp/nn/moe.h"

#include <fmt/format.h>

#include <cmath>

#include "core/fail.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "nn/indices.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

mx::array uniform(const mx::Shape& shape) {
  const float bound = 1.0f / std::sqrt(static_cast<float>(shape.back()));
  return mx::random::uniform(-bound, bound, shape);
}

Experts::Projection drawn(int n, int d_out, int d_in, bool bias) {
  Experts::Projection out{Matrix(uniform({n, d_out, d_in})), std::nullopt};
  if (bias) out.bias = uniform({n, d_out});
  return out;
}

// Each row of x, [batch, pos, k or 1, 1, in], through its own matrix. On a CPU
// MLX gathers matrices of float32 alone: it rounds behind the bias, once.
mx::array through(
    const mx::array& x,
    const Experts::Projection& by,
    const mx::array& chosen) {
  const bool cpu = mx::default_device() == mx::Device::cpu;
  const auto dtype = cpu ? mx::float32 : x.dtype();
  auto y = by.weight.gather(mx::astype(x, dtype), chosen);
  if (by.bias)
    y = mx::add(
        y,
        mx::expand_dims(mx::take(mx::astype(*by.bias, dtype), chosen, 0), -2));
  return mx::astype(y, x.dtype());
}

mx::array product(
    const ClampedSwiglu& by, const mx::array& gate, const mx::array& up) {
  // Of many steps: in half precision each would round.
  const auto wide = [](const mx::array& x) {
    return mx::astype(x, mx::float32);
  };
  const mx::array most(by.limit), least(-by.limit);
  const auto held = mx::minimum(wide(gate), most);
  const auto share = mx::sigmoid(mx::multiply(held, mx::array(by.slope)));
  const auto factor = mx::add(mx::clip(wide(up), least, most), mx::array(1.0f));
  return mx::astype(
      mx::multiply(factor, mx::multiply(held, share)), gate.dtype());
}

}  // namespace

Experts::Experts(const MoEConfig& config)
    : gate_proj(
          drawn(config.n_experts, config.d_mlp, config.d_model, config.bias)),
      up_proj(
          drawn(config.n_experts, config.d_mlp, config.d_model, config.bias)),
      down_proj(
          drawn(config.n_experts, config.d_model, config.d_mlp, config.bias)),
      config_(config) {
  describe({.width = config.d_model}, {.width = config.d_model});
  add("gate_proj", gate_proj);
  add("up_proj", up_proj);
  add("down_proj", down_proj);
}

void Experts::add(const char* name, Projection& projection) {
  Module::add(fmt::format("{}.weight", name), projection.weight);
  if (projection.bias)
    Module::add(fmt::format("{}.bias", name), *projection.bias);
}

mx::array Experts::forward(const mx::array&, Pass&) const {
  fail(ErrorKind::usage, "[Experts] experts run only inside a MoE module");
}

mx::array Experts::apply(
    const mx::array& x,
    const mx::array& chosen,
    const mx::array& weights,
    Pass& pass) const {
  auto rows = mx::expand_dims(tap_input(pass, x), {-2, -3});
  if (config_.weigh_input)
    rows = mx::multiply(rows, mx::expand_dims(weights, {-1, -2}));
  const auto gate = through(rows, gate_proj, chosen),
             up = through(rows, up_proj, chosen);
  const auto post = config_.swiglu ? product(*config_.swiglu, gate, up)
                                   : activate(config_.activation, gate, up);
  auto each = mx::squeeze(through(post, down_proj, chosen), -2);
  if (!config_.weigh_input)
    each = mx::multiply(each, mx::expand_dims(weights, -1));
  return tap_output(pass, mx::sum(each, -2));
}

MoE::MoE(const MoEConfig& config)
    : router(config.d_model, config.n_experts, config.router_bias),
      experts(config),
      config_(config) {
  describe({.width = config.d_model}, {.width = config.d_model});
  if (config.router_norm)
    add("router_norm",
        router_norm.emplace(config.d_model, *config.router_norm));
  add("router", router);
  if (config.norm) add("ln", ln.emplace(config.d_model, *config.norm));
  if (config.expert_scale)
    add("expert_scale", expert_scale.emplace(mx::ones({config.n_experts})));
  if (config.routing.corrected)
    add("score_correction",
        score_correction.emplace(mx::zeros({config.n_experts})));
  if (config.routing.corrected || config.routing.n_groups > 1)
    router_choice_ = site("router_choice", {.width = config.n_experts});
  add("experts", experts);
  if (config.d_shared > 0)
    add("shared_expert",
        shared_expert.emplace(MLPConfig{
            .d_model = config.d_model,
            .d_mlp = config.d_shared,
            .activation = config.activation,
            .bias = config.shared_bias,
        }));
  if (config.shared_gate)
    add("shared_expert_gate", shared_expert_gate.emplace(config.d_model, 1));
}

mx::array MoE::routed(const mx::array& x, Pass& pass) const {
  auto read = router_norm ? (*router_norm)(x, pass) : x;
  if (config_.router_scale != 1.0f)
    read = mx::multiply(read, mx::array(config_.router_scale, read.dtype()));
  // Where small corrections decide, the choice is made in float32.
  if (config_.routing.corrected) read = mx::astype(read, mx::float32);
  return tap(pass, router_logits_, router(read, pass));
}

mx::array MoE::eligible(const mx::array& scores) const {
  const auto& by = config_.routing;
  auto out = score_correction
                 ? mx::add(scores, mx::astype(*score_correction, mx::float32))
                 : scores;
  if (by.n_groups == 1) return out;
  // [batch, pos, group, expert], and of each group its best ones' sum.
  const auto groups =
      mx::unflatten(out, -1, {by.n_groups, config_.n_experts / by.n_groups});
  const auto best =
      by.by_two ? mx::sum(mx::topk(groups, 2, -1), -1) : mx::max(groups, -1);
  // The place of each group among them, from the best on.
  const auto place = mx::argsort(mx::argsort(mx::negative(best), -1), -1);
  const auto stays = mx::expand_dims(
      mx::less(place, mx::array(by.top_groups, place.dtype())), -1);
  return mx::flatten(mx::where(stays, groups, mx::array(-1e9f)), -2, -1);
}

mx::array MoE::forward(const mx::array& x, Pass& pass) const {
  const auto logits = mx::astype(routed(x, pass), mx::float32);
  const auto scores = tap(
      pass,
      router_scores_,
      config_.routing.sigmoid ? mx::sigmoid(logits) : mx::softmax(logits, -1));
  const auto choice =
      router_choice_ ? tap(pass, *router_choice_, eligible(scores)) : scores;
  const int k = config_.top_k;
  // Which experts run is a choice: derivatives do not go through it.
  auto chosen = mx::stop_gradient(mx::slice(
      mx::argsort(mx::negative(choice), -1),
      {0, 0, 0},
      {x.shape(0), x.shape(1), k}));
  chosen = tap(pass, expert_indices_, std::move(chosen));
  if (const auto expert = outside(chosen, config_.n_experts))
    fail(
        ErrorKind::out_of_range,
        "[MoE] expert {} at site '{}' is out of range; experts go from 0 to {}",
        *expert,
        site_name(expert_indices_),
        config_.n_experts - 1);
  auto weights = mx::take_along_axis(scores, chosen, -1);
  if (config_.normalize) {
    auto sum = mx::sum(weights, -1, true);
    if (config_.routing.epsilon > 0)
      sum = mx::add(sum, mx::array(config_.routing.epsilon));
    weights = mx::divide(weights, sum);
  }
  if (config_.routing.scale != 1.0f)
    weights = mx::multiply(weights, mx::array(config_.routing.scale));
  if (expert_scale)
    weights = mx::multiply(
        weights, mx::take(mx::astype(*expert_scale, mx::float32), chosen, 0));
  weights = tap(pass, expert_weights_, mx::astype(weights, x.dtype()));
  auto out = experts.apply(ln ? (*ln)(x, pass) : x, chosen, weights, pass);
  if (!shared_expert) return out;
  auto shared = (*shared_expert)(x, pass);
  if (shared_expert_gate)
    shared = mx::multiply(shared, mx::sigmoid((*shared_expert_gate)(x, pass)));
  return mx::add(out, shared);
}

}  // namespace mlxterp::nn
