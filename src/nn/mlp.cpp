#include "mlxterp/nn/mlp.h"

#include <cmath>
#include <numbers>

#include "core/fail.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "nn/cuda/activate.h"
#include "nn/simd/fused.h"
#include "nn/simd/kernels.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

mx::array in_steps(Activation activation, const mx::array& x) {
  if (activation == Activation::silu) return mx::multiply(x, mx::sigmoid(x));
  if (activation == Activation::relu ||
      activation == Activation::relu_squared) {
    const auto y = mx::maximum(x, mx::array(0.0f, x.dtype()));
    return activation == Activation::relu ? y : mx::square(y);
  }

  // Of many steps: in half precision each would round.
  const auto wide = mx::astype(x, mx::float32);
  const auto constant = [](double value) {
    return mx::array(static_cast<float>(value));
  };
  auto share = mx::array(0.0f);
  if (activation == Activation::gelu) {
    share = mx::erf(mx::multiply(wide, constant(std::sqrt(0.5))));
  } else {
    const auto cubed = mx::multiply(mx::multiply(wide, wide), wide);
    share = mx::tanh(mx::multiply(
        mx::add(wide, mx::multiply(cubed, constant(0.044715))),
        constant(std::sqrt(2.0 / std::numbers::pi))));
  }
  const auto half = mx::multiply(wide, constant(0.5));
  return mx::astype(mx::multiply(half, mx::add(share, constant(1))), x.dtype());
}

// act of the first input, or its derivative there, times the second where there
// is one, by a loop of our own.
mx::array looped(
    Activation activation,
    bool slope,
    std::vector<mx::array> inputs,
    simd::Plain plain,
    simd::Back back = {}) {
  for (auto& input : inputs)
    input = mx::contiguous(input);
  return simd::fused(
      slope ? "activation_slope" : "activate",
      inputs[0].shape(),
      inputs,
      std::move(plain),
      [activation, slope](const std::vector<mx::array>& in, float* out) {
        const auto* up = in.size() == 1 ? nullptr : in[1].data<float>();
        simd::activate(
            activation, slope, in[0].data<float>(), up, out, in[0].size());
      },
      !slope,
      std::move(back));
}

// What a derivative of activate() is by its inputs, from that of the result.
std::vector<mx::array> back_through(
    Activation activation,
    const std::vector<mx::array>& in,
    const mx::array& cotangent) {
  const auto slope = [activation](const std::vector<mx::array>& of) {
    const auto act = [&](const std::vector<mx::array>& x) {
      return std::vector{in_steps(activation, x[0])};
    };
    auto y = mx::vjp(act, {of[0]}, {mx::ones_like(of[0])}).second[0];
    if (of.size() > 1) y = mx::multiply(y, of[1]);
    return std::vector{y};
  };
  std::vector out{mx::multiply(cotangent, looped(activation, true, in, slope))};
  if (in.size() > 1)
    out.push_back(mx::multiply(cotangent, activate(activation, in[0])));
  return out;
}

}  // namespace

mx::array activate(
    Activation activation,
    const mx::array& x,
    const std::optional<mx::array>& factor) {
  if (activation == Activation::xielu)
    fail(
        ErrorKind::usage,
        "[activate] xIELU has parameters of its own; use nn::XIELU");
  if (auto y = cuda::activate(activation, x, factor)) return *std::move(y);
  // In half precision every step rounds; on a CPU, none but the last.
  const bool wide = mx::default_device() == mx::Device::cpu;
  const auto plain = [activation, wide](const std::vector<mx::array>& in) {
    const auto cast = [wide](const mx::array& value) {
      return wide ? mx::astype(value, mx::float32) : value;
    };
    auto y = in_steps(activation, cast(in[0]));
    if (in.size() > 1) y = mx::multiply(y, cast(in[1]));
    return std::vector{mx::astype(y, in[0].dtype())};
  };
  std::vector<mx::array> inputs{x};
  if (factor) inputs.push_back(*factor);
  const bool same =
      !factor || (simd::applies_to(*factor) && factor->shape() == x.shape());
  if (!simd::applies_to(x) || !same) return plain(inputs)[0];
  return looped(
      activation,
      false,
      std::move(inputs),
      plain,
      [activation](const auto& in, const mx::array& cotangent) {
        return back_through(activation, in, cotangent);
      });
}

XIELU::XIELU(int d_mlp)
    : alpha_p(mx::full({1}, 0.2f)),
      alpha_n(mx::full({1}, -1.05f)),
      beta(mx::full({1}, 0.5f)),
      eps(mx::full({1}, -1e-6f)) {
  describe({.width = d_mlp}, {.width = d_mlp});
  add("alpha_p", alpha_p);
  add("alpha_n", alpha_n);
  add("beta", beta);
  add("eps", eps);
}

mx::array XIELU::forward(const mx::array& x, Pass&) const {
  const auto wide = [](const mx::array& y) {
    return mx::astype(y, mx::float32);
  };
  const auto softplus = [&](const mx::array& y) {
    return mx::logaddexp(wide(y), mx::array(0.0f));
  };
  const auto in = wide(x);
  const auto above = mx::multiply(softplus(alpha_p), mx::square(in));
  const auto bent = mx::subtract(mx::expm1(mx::minimum(in, wide(eps))), in);
  const auto below = mx::multiply(mx::add(wide(beta), softplus(alpha_n)), bent);
  const auto y = mx::where(mx::greater(in, mx::array(0.0f)), above, below);
  return mx::astype(mx::add(y, mx::multiply(wide(beta), in)), x.dtype());
}

MLP::MLP(const MLPConfig& config)
    : up_proj(config.d_model, config.d_mlp, config.bias),
      down_proj(config.d_mlp, config.d_model, config.bias),
      activation_(config.activation) {
  describe({.width = config.d_model}, {.width = config.d_model});
  if (config.gated)
    add("gate_proj",
        gate_proj.emplace(config.d_model, config.d_mlp, config.bias));
  add("up_proj", up_proj);
  if (config.activation == Activation::xielu)
    add("act_fn", act_fn.emplace(config.d_mlp));
  add("down_proj", down_proj);
  alias("pre", gate_proj ? "gate_proj.output" : "up_proj.output");
  if (gate_proj) alias("pre_linear", "up_proj.output");
  alias("post", "down_proj.input");
}

mx::array MLP::forward(const mx::array& x, Pass& pass) const {
  if (!gate_proj)
    return down_proj(activated(up_proj(x, pass), std::nullopt, pass), pass);
  const auto gate = (*gate_proj)(x, pass);
  return down_proj(activated(gate, up_proj(x, pass), pass), pass);
}

mx::array MLP::activated(
    const mx::array& x,
    const std::optional<mx::array>& factor,
    Pass& pass) const {
  if (!act_fn) return activate(activation_, x, factor);
  const auto y = (*act_fn)(x, pass);
  return factor ? mx::multiply(y, *factor) : y;
}

}  // namespace mlxterp::nn
