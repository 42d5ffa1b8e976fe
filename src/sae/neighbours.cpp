#include "sae/neighbours.h"

#include <algorithm>
#include <cmath>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "sae/rows.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

template <typename T, typename Key>
std::vector<T> largest(std::vector<T> all, int top, Key key) {
  const auto kept = std::min(all.size(), static_cast<size_t>(top));
  std::ranges::partial_sort(
      all, all.begin() + static_cast<long>(kept), [&](const T& a, const T& b) {
        return key(a) > key(b) || (key(a) == key(b) && a.feature < b.feature);
      });
  all.resize(kept);
  return all;
}

mx::array unit_rows(const mx::array& x) {
  const auto length = mx::sqrt(mx::sum(mx::square(x), -1, true));
  return mx::divide(
      x,
      mx::where(mx::equal(length, mx::array(0.0f)), mx::array(1.0f), length));
}

}  // namespace

std::vector<std::vector<FeatureDashboard::Similar>> similar_features(
    const Sae& sae, const std::vector<int>& features, int top) {
  using Similar = FeatureDashboard::Similar;
  std::vector<std::vector<Similar>> out;
  if (top < 1) {
    out.resize(features.size());
    return out;
  }
  auto rows = unit_rows(
      mx::reshape(mx::astype(sae.W_dec, mx::float32), {sae.d_sae(), -1}));
  rows.eval();
  const auto width = static_cast<size_t>(sae.d_sae());
  constexpr size_t step = 64;
  for (size_t from = 0; from < features.size(); from += step) {
    const std::vector<int> some(
        features.begin() + static_cast<long>(from),
        features.begin() +
            static_cast<long>(std::min(features.size(), from + step)));
    auto cosines = mx::contiguous(mx::matmul(
        mx::take(
            rows,
            mx::array(some.data(), {static_cast<int>(some.size())}, mx::int32),
            0),
        mx::transpose(rows)));
    cosines.eval();
    for (size_t i = 0; i < some.size(); ++i) {
      std::vector<Similar> all;
      for (size_t f = 0; f < width; ++f)
        if (static_cast<int>(f) != some[i])
          all.push_back(
              {static_cast<int>(f), cosines.data<float>()[i * width + f]});
      out.push_back(largest(
          std::move(all), top, [](const auto& it) { return it.cosine; }));
    }
  }
  return out;
}

Correlations::Correlations(size_t features)
    : n_(features),
      sums_(features),
      squares_(features),
      pairs_(features * (features - 1) / 2) {}

const Correlations::Pair& Correlations::pair(size_t a, size_t b) const {
  if (a > b) std::swap(a, b);
  return pairs_[a * (2 * n_ - a - 1) / 2 + (b - a - 1)];
}

void Correlations::add(const std::vector<std::pair<size_t, float>>& active) {
  ++positions_;
  for (size_t i = 0; i < active.size(); ++i) {
    const auto& [a, x] = active[i];
    sums_[a] += x;
    squares_[a] += static_cast<double>(x) * x;
    auto* row = pairs_.data() + a * (2 * n_ - a - 1) / 2;
    for (size_t j = i + 1; j < active.size(); ++j) {
      const auto& [b, y] = active[j];
      auto& of = row[b - a - 1];
      of.product += static_cast<double>(x) * y;
      ++of.both;
    }
  }
}

std::vector<FeatureDashboard::Correlated> Correlations::of(
    size_t column, const std::vector<int>& numbers, int top) const {
  std::vector<FeatureDashboard::Correlated> all;
  const auto n = static_cast<double>(positions_);
  const auto spread = [&](size_t f) {
    return squares_[f] - sums_[f] * sums_[f] / n;
  };
  for (size_t other = 0; other < n_; ++other) {
    if (other == column) continue;
    const auto& [product, both] = pair(column, other);
    const double lengths = std::sqrt(squares_[column] * squares_[other]);
    const double spreads = std::sqrt(spread(column) * spread(other));
    // A feature that never changes goes with none.
    if (!(spreads > 0) || both == 0) continue;
    all.push_back(
        {.feature = numbers[other],
         .pearson = (product - sums_[column] * sums_[other] / n) / spreads,
         .cosine = product / lengths,
         .both = both});
  }
  return largest(
      std::move(all), top, [](const auto& it) { return it.pearson; });
}

}  // namespace mlxterp
