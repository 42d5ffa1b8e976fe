#include "mlxterp/nn/norm.h"

#include "core/fail.h"
#include "mlx/device.h"
#include "mlx/fast.h"
#include "mlx/ops.h"
#include "nn/simd/fused.h"
#include "nn/simd/kernels.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

mx::array rms_norm(const mx::array& x, const mx::array& gain, float eps) {
  const auto plain = [eps](const std::vector<mx::array>& in) {
    return std::vector{mx::fast::rms_norm(in[0], in[1], eps)};
  };
  if (!simd::applies_to(x) || !simd::applies_to(gain))
    return plain({x, gain})[0];
  return simd::fused(
      "rms_norm",
      x.shape(),
      {mx::contiguous(x), simd::dense(gain)},
      plain,
      [eps](const std::vector<mx::array>& in, float* out) {
        const size_t n = in[1].size();
        simd::rms_norm(
            in[0].data<float>(),
            in[1].data<float>(),
            eps,
            out,
            in[0].size() / n,
            n);
      },
      true);
}

}  // namespace

Norm::Norm(const mx::Shape& shape, const NormConfig& config, SiteTraits traits)
    : weight(config.plus_one ? mx::zeros(shape) : mx::ones(shape)),
      config_(config) {
  traits.width = shape.back();
  describe(traits, traits);
  traits.offered = true;
  auto divisor = traits;
  divisor.width = 1;
  scale_ = site("scale", divisor);
  normalized_ = site("normalized", traits);
  if (config.gain) add("weight", weight);
  if (config.bias) add("bias", bias.emplace(mx::zeros(shape)));
}

mx::array Norm::centered(const mx::array& x) const {
  auto wide = mx::astype(x, mx::float32);
  if (config_.kind == NormConfig::Kind::rms) return wide;
  return mx::subtract(wide, mx::mean(wide, -1, true));
}

mx::array Norm::scale(const mx::array& x) const {
  const auto power = mx::mean(mx::square(centered(x)), -1, true);
  return mx::sqrt(mx::add(power, mx::array(config_.eps)));
}

// In float32 where 1 is added: half precision would round the weight away.
mx::array Norm::gain() const {
  if (!config_.plus_one) return weight;
  return mx::add(mx::astype(weight, mx::float32), mx::array(1.0f));
}

mx::array Norm::forward(const mx::array& x, Pass& pass) const {
  // Our kernel takes its rows by the gain's length, whatever x says.
  if (x.ndim() == 0 || x.shape(-1) != weight.shape(-1))
    fail(
        ErrorKind::usage,
        "[Norm] site '{}' got {} features; the norm has {}",
        site_name(input_slot),
        x.ndim() == 0 ? 0 : x.shape(-1),
        weight.shape(-1));
  // `this` outlives the closures: a trace keeps its model alive.
  const auto divided = [this, x](const mx::array& by) {
    return mx::astype(mx::divide(centered(x), by), x.dtype());
  };
  if (pass.edits(id(scale_)) || pass.edits(id(normalized_))) {
    const auto by = tap(pass, scale_, scale(x));
    auto y = mx::multiply(tap(pass, normalized_, divided(by)), gain());
    if (bias) y = mx::add(y, *bias);
    return mx::astype(y, x.dtype());
  }
  pass.offer(id(scale_), [this, x] { return scale(x); });
  pass.offer(id(normalized_), [this, x, divided] { return divided(scale(x)); });
  // MLX's kernels for a GPU round once; its steps on a CPU, each.
  const bool wide = config_.plus_one || weight.ndim() > 1 ||
                    mx::default_device() == mx::Device::cpu;
  const auto cast = [&](const mx::array& value) {
    return wide ? mx::astype(value, mx::float32) : value;
  };
  const auto shift = bias ? std::optional(cast(*bias)) : std::nullopt;
  const auto by = config_.gain ? std::optional(cast(gain())) : std::nullopt;
  return mx::astype(fused(cast(x), by, shift), x.dtype());
}

mx::array Norm::fused(
    const mx::array& x,
    const std::optional<mx::array>& by,
    const std::optional<mx::array>& shift) const {
  const bool rms = config_.kind == NormConfig::Kind::rms;
  // The kernels know one gain for all heads only, and of RMS norm no bias.
  const bool one = by && by->ndim() == 1;
  if (one && !rms) return mx::fast::layer_norm(x, by, shift, config_.eps);
  if (one && !shift) return rms_norm(x, *by, config_.eps);
  auto y = x;
  if (rms) y = mx::fast::rms_norm(x, std::nullopt, config_.eps);
  // Where heads have gains of their own, the derivative of MLX 0.32.4's kernel
  // without one was wrong on CUDA.
  else if (mx::default_device() == mx::Device::gpu)
    y = mx::astype(mx::divide(centered(x), scale(x)), x.dtype());
  else
    y = mx::fast::layer_norm(x, std::nullopt, std::nullopt, config_.eps);
  if (by) y = mx::multiply(y, *by);
  return shift ? mx::add(y, *shift) : y;
}

}  // namespace mlxterp::nn
