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
};

/** The activation of x, times `factor` of the same shape where there is one.
 */
mlx::core::array activate(
    Activation activation,
    const mlx::core::array& x,
    const std::optional<mlx::core::array>& factor = std::nullopt);

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
 * other factor (gated only); post, what the down projection sees.
 */
class MLP : public Module {
 public:
  explicit MLP(const MLPConfig& config);

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  std::optional<Linear> gate_proj;
  Linear up_proj, down_proj;

 private:
  Activation activation_;
};

}  // namespace mlxterp::nn
