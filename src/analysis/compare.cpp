#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/fail.h"
#include "mlxterp/analysis/attribute.h"

namespace mlxterp {

namespace {

// Of equal values, the mean of their ranks.
std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) { return values[i]; });
  std::vector<double> out(values.size());
  for (size_t i = 0; i < order.size();) {
    size_t end = i;
    while (end < order.size() && values[order[end]] == values[order[i]])
      ++end;
    const double rank = static_cast<double>(i + end - 1) / 2;
    for (; i < end; ++i)
      out[order[i]] = rank;
  }
  return out;
}

double correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double both = 0, of_a = 0, of_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    both += (a[i] - mean_a) * (b[i] - mean_b);
    of_a += (a[i] - mean_a) * (a[i] - mean_a);
    of_b += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return both / std::sqrt(of_a * of_b);  // 0 / 0: NaN
}

std::vector<float> sizes_of(const Sweep& sweep) {
  auto out = sweep.delta();
  for (auto& value : out)
    value = std::abs(value);
  return out;
}

}  // namespace

Agreement compare(
    const Sweep& exact, const Sweep& approximate, size_t worst, bool sizes) {
  const auto same = [](const Sweep::Range& a, const Sweep::Range& b) {
    return a.axis == b.axis && a.values == b.values;
  };
  if (!std::ranges::equal(exact.axes, approximate.axes, same) ||
      exact.cells() != approximate.cells() || exact.cells() == 0)
    fail(
        ErrorKind::usage,
        "[compare] the sweeps have {} and {} cells and do not match; sweep "
        "both "
        "over the same axes",
        exact.cells(),
        approximate.cells());
  const auto wanted = sizes ? sizes_of(exact) : exact.metric;
  const auto given = sizes ? sizes_of(approximate) : approximate.metric;
  const std::vector<double> a(wanted.begin(), wanted.end());
  const std::vector<double> b(given.begin(), given.end());
  Agreement out{correlation(a, b), correlation(ranks(a), ranks(b)), {}};
  std::vector<size_t> order(a.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(
      order, std::greater<>(), [&](size_t i) { return std::abs(a[i] - b[i]); });
  for (size_t i = 0; i < std::min(worst, order.size()); ++i)
    out.worst.push_back({order[i], wanted[order[i]], given[order[i]]});
  return out;
}

}  // namespace mlxterp
