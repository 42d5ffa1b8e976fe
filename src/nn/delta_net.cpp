#include "mlxterp/nn/delta_net.h"

#include <cmath>

#include "mlx/ops.h"
#include "nn/delta_rule.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

mx::array wide(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

// Of length 1, as transformers makes them.
mx::array unit(const mx::array& x) {
  constexpr float eps = 1e-6f;
  const auto power = mx::sum(mx::square(x), -1, true);
  return mx::multiply(x, mx::rsqrt(mx::add(power, mx::array(eps))));
}

}  // namespace

DeltaNet::DeltaNet(const DeltaNetConfig& config)
    : q_proj(config.d_model, config.n_key_heads * config.d_key),
      k_proj(config.d_model, config.n_key_heads * config.d_key),
      v_proj(config.d_model, config.n_value_heads * config.d_value),
      z_proj(config.d_model, config.n_value_heads * config.d_value),
      b_proj(config.d_model, config.n_value_heads),
      a_proj(config.d_model, config.n_value_heads),
      conv(
          2 * config.n_key_heads * config.d_key +
              config.n_value_heads * config.d_value,
          config.conv_width,
          false),
      norm(
          mx::Shape{config.d_value},
          config.norm,
          traits(config.n_value_heads, config.d_value)),
      out_proj(config.n_value_heads * config.d_value, config.d_model),
      A_log(mx::zeros({config.n_value_heads})),
      dt_bias(mx::ones({config.n_value_heads})),
      config_(config) {
  describe(
      {.width = config.d_model},
      {.width = config.d_model, .stage = Stage::after});
  add("q_proj", q_proj);
  add("k_proj", k_proj);
  add("v_proj", v_proj);
  add("z_proj", z_proj);
  add("b_proj", b_proj);
  add("a_proj", a_proj);
  add("conv", conv);
  add("norm", norm, Stage::after);
  add("out_proj", out_proj, Stage::after);
  add("A_log", A_log);
  add("dt_bias", dt_bias);
  const auto key = traits(config.n_key_heads, config.d_key);
  const auto value = traits(config.n_value_heads, config.d_value);
  const auto number = traits(config.n_value_heads, 1);
  q_ = site("q", key);
  k_ = site("k", key);
  v_ = site("v", value);
  g_ = site("g", number);
  beta_ = site("beta", number);
  z_ = site("z", value);
  add_state(config.d_value);
  out_ = site("out", value);
}

SiteTraits DeltaNet::traits(int heads, int width) const {
  return {.layout = Layout::heads, .n_heads = heads, .width = width};
}

mx::array DeltaNet::forward(const mx::array& x, Pass& pass) const {
  const int batch = x.shape(0), length = x.shape(1);
  const int keys = config_.n_key_heads * config_.d_key;
  const auto heads = [&](const mx::array& y, int n) {
    return mx::reshape(y, {batch, length, n, -1});
  };
  const auto side_by_side =
      mx::concatenate({q_proj(x, pass), k_proj(x, pass), v_proj(x, pass)}, -1);
  const auto mixed = mx::astype(
      activate(config_.activation, wide(conv(side_by_side, pass))), x.dtype());
  const auto parts = mx::split(mixed, mx::Shape{keys, 2 * keys}, -1);
  const int n_key = config_.n_key_heads, n = config_.n_value_heads;
  const auto q = tap(pass, q_, heads(parts[0], n_key)),
             k = tap(pass, k_, heads(parts[1], n_key)),
             v = tap(pass, v_, heads(parts[2], n));
  const auto z = tap(pass, z_, heads(z_proj(x, pass), n));
  const auto rate = mx::logaddexp(
      mx::add(wide(a_proj(x, pass)), wide(dt_bias)), mx::array(0.0f));
  const auto g =
      tap(pass,
          g_,
          heads(mx::negative(mx::multiply(mx::exp(wide(A_log)), rate)), n));
  const auto beta = tap(pass, beta_, heads(mx::sigmoid(b_proj(x, pass)), n));

  auto out = mx::astype(recurred({q, k, v, g, beta}, pass), x.dtype());
  out = pass.gather_output_rows(tap(pass, out_, std::move(out)));
  const auto gate = mx::sigmoid(wide(pass.gather_output_rows(z)));
  const auto gated = mx::astype(
      mx::multiply(
          wide(norm(out, pass)),
          mx::multiply(wide(pass.gather_output_rows(z)), gate)),
      x.dtype());
  return out_proj(mx::reshape(gated, {batch, gated.shape(1), -1}), pass);
}

DeltaInput DeltaNet::input(
    const Pass::Arrays& rows, const std::optional<mx::array>& initial) const {
  const int times = config_.n_value_heads / config_.n_key_heads;
  const auto to_heads = [&](const mx::array& x) {
    return times == 1 ? unit(wide(x)) : mx::repeat(unit(wide(x)), times, 2);
  };
  const float scale = 1.0f / std::sqrt(static_cast<float>(config_.d_key));
  const auto q = mx::multiply(to_heads(rows[0]), mx::array(scale)),
             k = to_heads(rows[1]), v = wide(rows[2]), g = wide(rows[3]),
             beta = wide(rows[4]);
  return {
      q,
      k,
      v,
      g,
      beta,
      initial ? *initial
              : mx::zeros(
                    {rows[0].shape(0),
                     config_.n_value_heads,
                     config_.d_key,
                     config_.d_value})};
}

}  // namespace mlxterp::nn
