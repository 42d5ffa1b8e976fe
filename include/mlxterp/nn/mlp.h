// mlxterp/nn/mlp.h: the feed-forward part of a layer, gated or plain.

#pragma once

#include <optional>

#include "mlxterp/nn/linear.h"

namespace mlxterp::nn {

enum class Activation {
  silu,
  gelu,       ///< With the error function (Hendrycks and Gimpel, 2016).
  gelu_tanh,  ///< Its tanh approximation.
  relu,
  relu_squared,  ///< So et al. (2021).
  xielu,         ///< Has parameters, so it is a module: XIELU.
};

/** The activation of x, times `factor` of the same shape where there is one.
 * Throws usage for one that has parameters. */
mlx::core::array activate(
    Activation activation,
    const mlx::core::array& x,
    const std::optional<mlx::core::array>& factor = std::nullopt);

/**
 * The xIELU (Huang and Schlag, 2024), whose two sides are learned:
 *
 *     x > 0: softplus(alpha_p) x^2 + beta x
 *     else:  (beta + softplus(alpha_n)) (exp(min(x, eps)) - 1 - x) + beta x
 *
 * Parameters: alpha_p, alpha_n, beta, eps, [1] each. Keeps shape and dtype;
 * computed in float32.
 */
class XIELU : public Module {
 public:
  explicit XIELU(int d_mlp);

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  mlx::core::array alpha_p, alpha_n, beta, eps;
};

struct MLPConfig {
  int d_model = 0;
  int d_mlp = 0;
  Activation activation = Activation::silu;
  bool gated = true;
  bool bias = false;
};

/**
 * down(act(gate(x)) * up(x)) (Shazeer, 2020), or plain: down(act(up(x))).
 * Sites, [batch, pos, d_mlp]: pre, what the activation sees; pre_linear, the
 * other factor (gated only); post, what the down projection sees. An activation
 * with parameters is the part act_fn.
 */
class MLP : public Module {
 public:
  explicit MLP(const MLPConfig& config);

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  std::optional<Linear> gate_proj;
  Linear up_proj, down_proj;
  std::optional<XIELU> act_fn;

 private:
  mlx::core::array activated(
      const mlx::core::array& x,
      const std::optional<mlx::core::array>& factor,
      Pass& pass) const;

  Activation activation_;
};

}  // namespace mlxterp::nn
