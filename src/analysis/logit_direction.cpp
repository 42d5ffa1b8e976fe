#include "analysis/logit_direction.h"

#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

mx::array logit_direction(
    const Decoder& decoder, const std::vector<int>& tokens) {
  const mx::array ids(
      tokens.data(), {static_cast<int>(tokens.size())}, mx::int32);
  const auto rows = mx::astype(decoder.unembed.weight().take(ids), mx::float32);
  const auto row = [&](int i) { return mx::take(rows, i, 0); };
  const auto y = tokens.size() == 1 ? row(0) : mx::subtract(row(0), row(1));
  return mx::multiply(y, mx::array(decoder.config().logit_scale));
}

mx::array before_gain(
    const nn::Norm& norm,
    const nn::NormConfig& config,
    const mx::array& directions) {
  auto gain = mx::astype(norm.weight, mx::float32);
  if (config.plus_one) gain = mx::add(gain, mx::array(1.0f));
  auto out = mx::multiply(gain, directions);
  if (config.kind == nn::NormConfig::Kind::layer)
    out = mx::subtract(out, mx::mean(out, -1, true));
  return out;
}

}  // namespace mlxterp
