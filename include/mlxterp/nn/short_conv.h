// mlxterp/nn/short_conv.h: a gated short convolution in place of attention.

#pragma once

#include "mlxterp/nn/causal_conv.h"
#include "mlxterp/nn/linear.h"
#include "mlxterp/nn/mixer.h"

namespace mlxterp::nn {

/**
 * out(C * conv(B * x)), where B, C and x are thirds of a projection (LFM2,
 * Liquid AI, 2025). Sites, [batch, pos, d_model]: B, C, x; beside them those of
 * in_proj, conv and out_proj: conv.input is B * x, out_proj.input C times what
 * the convolution made of it. Between B, C, x and out_proj all is float32.
 */
class ShortConv : public Mixer {
 public:
  ShortConv(int d_model, int width, bool bias);

  std::string_view name() const override { return "conv"; }

  mlx::core::array forward(
      const mlx::core::array& x, Pass& pass) const override;

  Linear in_proj;
  CausalConv conv;
  Linear out_proj;

 private:
  Slot b_, c_, x_;
};

}  // namespace mlxterp::nn
