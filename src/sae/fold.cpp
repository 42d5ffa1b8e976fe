#include <cmath>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlxterp/sae/sae.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr float least_norm = 1e-8f;

void need_no_norm(const Sae& sae, std::string_view what) {
  if (sae.norm != SaeNorm::none)
    fail(
        ErrorKind::usage,
        "[sae] {} cannot be folded into an SAE whose input is normalised row "
        "by row ({}); one of the two is wrong",
        what,
        name_of(sae.norm));
}

bool ranks(SaeActivation activation) {
  return activation != SaeActivation::relu &&
         activation != SaeActivation::jump_relu;
}

}  // namespace

Sae fold_scale(Sae sae, float scale, std::optional<float> of_output) {
  need_no_norm(sae, "a scale");
  const float out = of_output.value_or(scale);
  for (const float s : {scale, out})
    if (!(s > 0) || !std::isfinite(s))
      fail(
          ErrorKind::usage,
          "[sae] a scale of activations is {}; it has to be positive",
          s);
  // With x s - b_dec read, b_dec / s is what is subtracted from x.
  if (sae.subtract_b_dec && out != scale)
    fail(
        ErrorKind::usage,
        "[sae] b_dec cannot be both subtracted from inputs scaled by {} and "
        "added to outputs scaled by {}",
        scale,
        out);
  sae.W_enc = mx::multiply(sae.W_enc, mx::array(scale));
  sae.W_dec = mx::divide(sae.W_dec, mx::array(out));
  sae.b_dec = mx::divide(sae.b_dec, mx::array(out));
  if (sae.W_skip)
    sae.W_skip = mx::multiply(*sae.W_skip, mx::array(scale / out));
  return sae;
}

Sae fold_decoder_norm(Sae sae, bool chosen_so) {
  if (ranks(sae.activation) && !chosen_so)
    fail(
        ErrorKind::usage,
        "[sae] decoder rows of length 1 would change which features {} "
        "chooses; leave this SAE as it is",
        name_of(sae.activation));
  const auto flat = mx::reshape(sae.W_dec, {sae.d_sae(), -1});
  const auto length = mx::maximum(
      mx::sqrt(mx::sum(mx::square(flat), -1)),
      mx::array(least_norm));  // [d_sae]
  mx::Shape rows(sae.W_dec.ndim(), 1);
  rows[0] = sae.d_sae();
  sae.W_dec = mx::divide(sae.W_dec, mx::reshape(length, rows));
  sae.W_enc = mx::multiply(sae.W_enc, length);
  sae.b_enc = mx::multiply(sae.b_enc, length);
  if (sae.threshold) sae.threshold = mx::multiply(*sae.threshold, length);
  return sae;
}

Sae fold_whitening(
    Sae sae,
    const mx::array& mean,
    const mx::array& matrix,
    const mx::array& inverse) {
  need_no_norm(sae, "a whitening");
  const int d = sae.d_in();
  if (sae.kind != SaeKind::sae || mean.shape() != mx::Shape{d} ||
      matrix.shape() != mx::Shape{d, d} || inverse.shape() != mx::Shape{d, d})
    fail(
        ErrorKind::usage,
        "[sae] a whitening of {} numbers for a {} of {}; it has to be an SAE "
        "of the same width",
        mean.size(),
        name_of(sae.kind),
        d);
  sae.W_enc = mx::matmul(matrix, sae.W_enc);
  // Where b_dec is subtracted, the new one takes the mean away.
  if (!sae.subtract_b_dec) {
    const auto shift = mx::matmul(mean, sae.W_enc);
    sae.b_enc = mx::subtract(sae.b_enc, shift);
  }
  sae.W_dec = mx::matmul(sae.W_dec, inverse);
  sae.b_dec = mx::add(mx::matmul(sae.b_dec, inverse), mean);
  return sae;
}

}  // namespace mlxterp
