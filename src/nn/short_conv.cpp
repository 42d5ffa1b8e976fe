#include "mlxterp/nn/short_conv.h"

#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

ShortConv::ShortConv(int d_model, int width, bool bias)
    : in_proj(d_model, 3 * d_model, bias),
      conv(d_model, width, bias),
      out_proj(d_model, d_model, bias) {
  describe({.width = d_model}, {.width = d_model, .stage = Stage::after});
  add("in_proj", in_proj);
  add("conv", conv);
  add("out_proj", out_proj, Stage::after);
  b_ = site("B", {.width = d_model});
  c_ = site("C", {.width = d_model});
  x_ = site("x", {.width = d_model});
}

mx::array ShortConv::forward(const mx::array& x, Pass& pass) const {
  const auto thirds = mx::split(in_proj(x, pass), 3, -1);
  const auto b = tap(pass, b_, thirds[0]), c = tap(pass, c_, thirds[1]),
             inner = tap(pass, x_, thirds[2]);
  // Three products in a row: in half precision each would round.
  const auto wide = [](const mx::array& y) {
    return mx::astype(y, mx::float32);
  };
  const auto mixed = conv(mx::multiply(wide(b), wide(inner)), pass);
  const auto out = mx::astype(mx::multiply(wide(c), mixed), x.dtype());
  return out_proj(pass.gather_output_rows(out), pass);
}

}  // namespace mlxterp::nn
