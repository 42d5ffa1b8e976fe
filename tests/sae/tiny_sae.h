// tests/sae/tiny_sae.h: small SAEs in memory: random ones of every kind, and
// one that knows some rows by heart.

#pragma once

#include <vector>

#include "mlx/linalg.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/sae/sae.h"

namespace mlxterp::test {

inline mlx::core::array random_array(
    const mlx::core::Shape& shape, float size, uint64_t seed) {
  namespace mx = mlx::core;
  auto x = mx::multiply(
      mx::random::normal(shape, mx::random::key(seed)), mx::array(size));
  x.eval();
  return x;
}

/** Of one activation after the other, and with every option between them. */
inline constexpr int n_random_saes = 8;

/** One of n_random_saes; a transcoder where d_out differs from d_in or it is
 * asked for. Decoder rows are of length about 1. */
inline Sae random_sae(
    int which, int d_in, int d_sae, int d_out = 0, bool transcoder = false) {
  namespace mx = mlx::core;
  if (d_out == 0) d_out = d_in;
  const auto scale = 1.0f / std::sqrt(static_cast<float>(d_out));
  Sae sae{
      .W_enc = random_array({d_in, d_sae}, 1.0f, 1),
      .b_enc = random_array({d_sae}, 0.1f, 2),
      .W_dec = random_array({d_sae, d_out}, scale, 3),
      .b_dec = random_array({d_out}, 0.2f, 4)};
  if (transcoder || d_out != d_in) sae.kind = SaeKind::transcoder;
  using enum SaeActivation;
  constexpr SaeActivation kinds[n_random_saes] = {
      relu, topk, jump_relu, signed_topk, abs_topk, group_max, relu, jump_relu};
  sae.activation = kinds[which % n_random_saes];
  sae.k = 4;
  if (sae.activation == jump_relu)
    sae.threshold = mx::full({d_sae}, 0.3f, mx::float32);
  sae.subtract_b_dec = which % 2 == 1 && sae.kind == SaeKind::sae;
  if (which == 6) {
    sae.norm = SaeNorm::layer_norm;
    sae.undo_norm = sae.kind == SaeKind::sae;
  }
  if (which == 7) sae.W_skip = random_array({d_in, d_out}, 0.2f, 5);
  return sae;
}

/** A feature for each row of x [n, d_in], which are independent: 1 there, 0 at
 * the other rows; its decoder row is that of y [n, d_out]. */
inline Sae learnt_by_heart(
    const mlx::core::array& x, const mlx::core::array& y) {
  namespace mx = mlx::core;
  constexpr float steep = 4;
  const auto inverse =
      mx::linalg::pinv(mx::astype(x, mx::float32), mx::Device::cpu);
  Sae sae{
      .W_enc = mx::contiguous(mx::multiply(inverse, mx::array(steep))),
      .b_enc = mx::full({x.shape(0)}, 1 - steep, mx::float32),
      .W_dec = mx::contiguous(mx::astype(y, mx::float32)),
      .b_dec = mx::zeros({y.shape(-1)})};
  mx::eval(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec);
  return sae;
}

}  // namespace mlxterp::test
