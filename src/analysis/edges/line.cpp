#include "analysis/edges/line.h"

#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

std::vector<float> line_shares(const EdgeOptions& options) {
  if (options.method == EdgeMethod::eap) return {0.0f};
  if (options.method == EdgeMethod::clean_corrupted) return {0.0f, 1.0f};
  const float shift = options.rule == LineRule::left  ? 0.0f
                      : options.rule == LineRule::mid ? 0.5f
                                                      : 1.0f;
  std::vector<float> out;
  for (int k = 0; k < options.steps; ++k)
    out.push_back(
        (static_cast<float>(k) + shift) / static_cast<float>(options.steps));
  return out;
}

Stream points_between(const Stream& both, const std::vector<float>& shares) {
  const int n = static_cast<int>(shares.size());
  const auto points = [&](const mx::array& x) {
    auto first = mx::Shape(x.ndim(), 0), last = x.shape();
    last[0] = 1;
    const auto base = mx::slice(x, first, last);
    first[0] = 1;
    last[0] = 2;
    const auto other = mx::slice(x, first, last);
    mx::Shape shape(x.ndim(), 1);
    shape[0] = n;
    const auto share = mx::astype(mx::array(shares.data(), shape), x.dtype());
    return mx::add(base, mx::multiply(share, mx::subtract(other, base)));
  };
  return {points(both.x), each(both.carried, points)};
}

}  // namespace mlxterp
