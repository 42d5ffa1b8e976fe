// mlxterp/nn/norm.h: normalisation over the last axis.

#pragma once

#include <optional>

#include "mlxterp/nn/module.h"

namespace mlxterp::nn {

struct NormConfig {
  enum class Kind {
    rms,    ///< x / sqrt(mean(x^2) + eps) (Zhang and Sennrich, 2019).
    layer,  ///< (x - mean) / sqrt(var + eps) (Ba et al., 2016).
  };
  Kind kind = Kind::rms;
  float eps = 1e-5f;
  bool bias = false;
  bool plus_one = false;  ///< Gemma: the gain is 1 + weight.
  bool gain = true;       ///< OLMo 1 has none.
};

/**
 * Divides by the scale, then applies gain and bias. Parameters: weight, of the
 * shape given: [d], or [head, d_head] where each head has a gain of its own
 * (without a gain it is ones and no parameter); bias, likewise, if asked for.
 * Sites: scale [..., 1], the divisor; normalized [..., d], x (less its mean) /
 * scale before gain and bias. Runs fused unless one of them is edited; both are
 * computed in float32, normalized is cast back. `traits` tells of heads where
 * it normalises each alone.
 */
class Norm : public Module {
 public:
  Norm(
      const mlx::core::Shape& shape,
      const NormConfig& config,
      SiteTraits traits = {});
  Norm(int d, const NormConfig& config) : Norm(mlx::core::Shape{d}, config) {}

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  mlx::core::array weight;
  std::optional<mlx::core::array> bias;

 private:
  mlx::core::array centered(const mlx::core::array& x) const;
  mlx::core::array scale(const mlx::core::array& x) const;
  mlx::core::array gain() const;
  mlx::core::array fused(
      const mlx::core::array& x,
      const std::optional<mlx::core::array>& by,
      const std::optional<mlx::core::array>& shift) const;

  NormConfig config_;
  Slot scale_ = {}, normalized_ = {};
};

}  // namespace mlxterp::nn
