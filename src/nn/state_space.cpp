#include "mlxterp/nn/state_space.h"

#include "mlx/ops.h"
#include "nn/delta_rule.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

mx::array wide(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

SiteTraits traits(int heads, int width) {
  return {.layout = Layout::heads, .n_heads = heads, .width = width};
}

}  // namespace

StateSpace::StateSpace(const StateSpaceConfig& config)
    : z_proj(config.d_model, config.n_heads * config.d_head, config.bias),
      x_proj(config.d_model, config.n_heads * config.d_head, config.bias),
      B_proj(config.d_model, config.n_groups * config.d_state, config.bias),
      C_proj(config.d_model, config.n_groups * config.d_state, config.bias),
      dt_proj(config.d_model, config.n_heads, config.bias),
      conv(
          config.n_heads * config.d_head + 2 * config.n_groups * config.d_state,
          config.conv_width,
          config.conv_bias),
      norm(
          mx::Shape{
              config.n_groups,
              config.n_heads * config.d_head / config.n_groups},
          config.norm,
          traits(
              config.n_groups,
              config.n_heads * config.d_head / config.n_groups)),
      out_proj(config.n_heads * config.d_head, config.d_model, config.bias),
      A_log(mx::zeros({config.n_heads})),
      D(mx::ones({config.n_heads})),
      dt_bias(mx::ones({config.n_heads})),
      config_(config) {
  describe(
      {.width = config.d_model},
      {.width = config.d_model, .stage = Stage::after});
  add("z_proj", z_proj);
  add("x_proj", x_proj);
  add("B_proj", B_proj);
  add("C_proj", C_proj);
  add("dt_proj", dt_proj);
  add("conv", conv);
  add("norm", norm, Stage::after);
  add("out_proj", out_proj, Stage::after);
  add("A_log", A_log);
  add("D", D);
  add("dt_bias", dt_bias);
  const auto head = traits(config.n_heads, config.d_head);
  const auto group = traits(config.n_groups, config.d_state);
  x_ = site("x", head);
  B_ = site("B", group);
  C_ = site("C", group);
  dt_ = site("dt", traits(config.n_heads, 1));
  z_ = site("z", head);
  add_state(config.d_head);
  out_ = site("out", head);
}

mx::array StateSpace::forward(const mx::array& read, Pass& pass) const {
  const int batch = read.shape(0), length = read.shape(1);
  const int n = config_.n_heads, groups = config_.n_groups;
  const auto split = [&](const mx::array& y, int heads) {
    return mx::reshape(y, {batch, length, heads, -1});
  };
  const auto z = tap(pass, z_, split(z_proj(read, pass), n));
  const auto side_by_side = mx::concatenate(
      {x_proj(read, pass), B_proj(read, pass), C_proj(read, pass)}, -1);
  const auto mixed = mx::astype(
      activate(config_.activation, wide(conv(side_by_side, pass))),
      read.dtype());
  const int inner = n * config_.d_head;
  const auto parts =
      mx::split(mixed, mx::Shape{inner, inner + groups * config_.d_state}, -1);
  const auto x = tap(pass, x_, split(parts[0], n)),
             b = tap(pass, B_, split(parts[1], groups)),
             c = tap(pass, C_, split(parts[2], groups));
  const auto rate = mx::logaddexp(
      mx::add(wide(dt_proj(read, pass)), wide(dt_bias)), mx::array(0.0f));
  const auto dt = tap(
      pass,
      dt_,
      split(
          mx::clip(
              rate, mx::array(config_.dt_least), mx::array(config_.dt_most)),
          n));

  const auto skipped = mx::multiply(wide(x), mx::reshape(wide(D), {n, 1}));
  auto out =
      mx::astype(mx::add(recurred({x, b, c, dt}, pass), skipped), read.dtype());
  out = pass.gather_output_rows(tap(pass, out_, std::move(out)));
  const auto gate = wide(pass.gather_output_rows(z));
  const auto gated =
      mx::multiply(wide(out), mx::multiply(gate, mx::sigmoid(gate)));
  const auto normed =
      norm(mx::reshape(gated, {batch, out.shape(1), groups, -1}), pass);
  return out_proj(
      mx::astype(mx::reshape(normed, {batch, out.shape(1), -1}), read.dtype()),
      pass);
}

DeltaInput StateSpace::input(
    const Pass::Arrays& rows, const std::optional<mx::array>& initial) const {
  const int times = config_.n_heads / config_.n_groups;
  const auto to_heads = [&](const mx::array& x) {
    return times == 1 ? wide(x) : mx::repeat(wide(x), times, 2);
  };
  const auto dt = wide(rows[3]);
  const auto rate = mx::reshape(mx::exp(wide(A_log)), {config_.n_heads, 1});
  return {
      .q = to_heads(rows[2]),
      .k = to_heads(rows[1]),
      .v = wide(rows[0]),
      .g = mx::negative(mx::multiply(dt, rate)),
      .beta = dt,
      .initial = initial ? *initial
                         : mx::zeros(
                               {rows[0].shape(0),
                                config_.n_heads,
                                config_.d_state,
                                config_.d_head}),
      .corrects = false};
}

}  // namespace mlxterp::nn
