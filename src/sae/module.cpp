#include "mlxterp/sae/module.h"

#include <utility>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

Sae checked(Sae sae) {
  check(sae);
  return sae;
}

// Heads side by side, where there are some.
mx::array flat(const mx::array& x, int d_in) {
  if (x.ndim() < 4 || x.shape(-1) == d_in) return x;
  return mx::flatten(x, -2, -1);
}

mx::array numbers_of(const std::vector<int>& features) {
  return mx::array(
      features.data(), {static_cast<int>(features.size())}, mx::int32);
}

// Those columns alone; nothing is decoded of them.
Sae columns(Sae sae, const std::vector<int>& features) {
  const auto ids = numbers_of(features);
  sae.W_enc = mx::contiguous(mx::take(sae.W_enc, ids, 1));
  sae.b_enc = mx::take(sae.b_enc, ids, 0);
  sae.W_dec = mx::zeros({static_cast<int>(features.size()), sae.d_out()});
  if (sae.threshold) sae.threshold = mx::take(*sae.threshold, ids, 0);
  sae.kind = SaeKind::transcoder;
  mx::eval(sae.W_enc, sae.b_enc);
  if (sae.threshold) sae.threshold->eval();
  return sae;
}

std::vector<int> in_range(const Sae& sae, std::vector<int> features) {
  if (features.empty())
    fail(ErrorKind::usage, "[sae] no features were named; name one at least");
  for (const int feature : features)
    if (feature < 0 || feature >= sae.d_sae())
      fail(
          ErrorKind::out_of_range,
          "[sae] feature {} is out of range; {} has {}, numbered from 0",
          feature,
          sae.source.file.empty() ? "this SAE" : printable(sae.source.file),
          sae.d_sae());
  return features;
}

}  // namespace

bool features_compete(const Sae& sae) {
  return sae.activation != SaeActivation::relu &&
         sae.activation != SaeActivation::jump_relu;
}

SaeModule::SaeModule(Sae sae)
    : sae_(checked(std::move(sae))),
      pre_(site("pre", {.width = sae_.d_sae()})),
      acts_(site("acts", {.width = sae_.d_sae()})) {
  describe({.width = sae_.d_in()}, {.width = sae_.d_out()});
  alias("recon", "output");
}

mx::array SaeModule::forward(const mx::array& x, Pass& pass) const {
  const auto rows = flat(x, sae_.d_in());
  const auto pre = tap(pass, pre_, pre_activations(sae_, rows));
  const auto acts = tap(pass, acts_, activate(sae_, pre));
  auto recon = decode(sae_, acts, rows);
  return recon.size() == x.size() ? mx::reshape(recon, x.shape()) : recon;
}

SaeFeatures::SaeFeatures(const Sae& sae, std::vector<int> features)
    : features_(in_range(sae, std::move(features))),
      sae_(features_compete(sae) ? checked(sae) : columns(sae, features_)),
      compete_(features_compete(sae)) {
  describe(
      {.width = sae_.d_in()}, {.width = static_cast<int>(features_.size())});
  alias("acts", "output");
}

mx::array SaeFeatures::forward(const mx::array& x, Pass&) const {
  const auto acts = encode(sae_, flat(x, sae_.d_in()));
  return compete_ ? mx::take(acts, numbers_of(features_), -1) : acts;
}

}  // namespace mlxterp
