#include "sae/train/sparse_ops.h"

#include <algorithm>

#include "mlx/ops.h"
#include "sae/cuda/sparse_rows.h"

namespace mx = mlx::core;

namespace mlxterp::sae_train::ops {

namespace {

// Gathered rows that are held at a time, in numbers: 256 MB.
constexpr int64_t most_gathered = int64_t{1} << 26;

mx::array stretch(const mx::array& x, int begin, int end) {
  return mx::slice(x, {begin}, {end});
}

// Calls part(begin, end) for stretches of the places of which rows of d numbers
// fit.
template <typename Part>
void in_parts(int n, int d, const Part& part) {
  const int step =
      static_cast<int>(std::max<int64_t>(1, most_gathered / std::max(d, 1)));
  for (int begin = 0; begin < n; begin += step)
    part(begin, std::min(n, begin + step));
}

// sum_i values_i from[source_i] into row target_i of `rows`.
mx::array scattered(
    const mx::array& values,
    const mx::array& source,
    const mx::array& target,
    const mx::array& from,
    int rows) {
  const int d = from.shape(1);
  auto out = mx::zeros({rows, d}, mx::float32);
  in_parts(values.shape(0), d, [&](int begin, int end) {
    const auto some = mx::multiply(
        mx::expand_dims(stretch(values, begin, end), 1),
        mx::take(from, stretch(source, begin, end), 0));
    out = mx::scatter_add(
        out, stretch(target, begin, end), mx::expand_dims(some, 1), 0);
  });
  return out;
}

}  // namespace

Sparse top_of_rows(
    const Ranked& from, int k, const std::optional<std::vector<int>>& among) {
  auto pre = from.pre;
  auto by = from.by;
  std::optional<mx::array> names;
  if (among) {
    names = mx::array(
        among->data(), mx::Shape{static_cast<int>(among->size())}, mx::int32);
    pre = mx::take(pre, *names, 1);
    if (by) by = mx::take(*by, *names, 0);
  }
  const int rows = pre.shape(0), n = pre.shape(1), each = std::min(k, n);
  const auto row_of = mx::flatten(mx::broadcast_to(
      mx::reshape(mx::arange(0, rows, mx::int32), {rows, 1}), {rows, each}));
  const auto named = [&](const mx::array& columns) {
    return names ? mx::take(*names, columns, 0) : columns;
  };
  if (const auto found = cuda::top_of_rows(pre, each, by))
    return {row_of, named(found->first), found->second};
  const auto chosen = mx::astype(
      mx::slice(
          mx::argpartition(mx::negative(Ranked(pre, by).rank), each - 1, 1),
          {0, 0},
          {rows, each}),
      mx::int32);
  const auto values = mx::take_along_axis(pre, chosen, 1);
  return {
      row_of,
      mx::flatten(named(chosen)),
      mx::astype(mx::flatten(values), mx::float32)};
}

Sparse top_of_all(const Ranked& from, int64_t n) {
  const int each = static_cast<int>(
      std::min<int64_t>(n, static_cast<int64_t>(from.pre.size())));
  if (const auto found = cuda::top_of_all(from.pre, each, from.by))
    return {(*found)[0], (*found)[1], (*found)[2]};
  const auto& rank = from.rank;
  const auto all =
      mx::astype(mx::flatten(mx::maximum(rank, mx::array(0.0f))), mx::float32);
  // Rows ascend where places do.
  const auto places = mx::sort(mx::astype(
      mx::slice(mx::argpartition(mx::negative(all), each - 1, 0), {0}, {each}),
      mx::int32));
  const mx::array width(rank.shape(1), mx::int32);
  return {
      mx::floor_divide(places, width),
      mx::remainder(places, width),
      mx::take(all, places, 0)};
}

Sparse columns(const Sparse& all, int begin, int end) {
  const auto inside = mx::logical_and(
      mx::greater_equal(all.cols, mx::array(begin)),
      mx::less(all.cols, mx::array(end)));
  return {all.rows, all.cols, mx::where(inside, all.values, mx::array(0.0f))};
}

mx::array decode(const Sparse& acts, const mx::array& W, int rows) {
  if (auto out = cuda::decode(acts.rows, acts.cols, acts.values, W, rows))
    return *out;
  return scattered(acts.values, acts.cols, acts.rows, W, rows);
}

mx::array dots(const Sparse& at, const mx::array& G, const mx::array& W) {
  if (auto out = cuda::dots(at.rows, at.cols, G, W)) return *out;
  const auto wide = [](const mx::array& x) {
    return mx::astype(x, mx::float32);
  };
  std::vector<mx::array> parts;
  in_parts(at.size(), G.shape(1), [&](int begin, int end) {
    parts.push_back(mx::sum(
        mx::multiply(
            wide(mx::take(G, stretch(at.rows, begin, end), 0)),
            wide(mx::take(W, stretch(at.cols, begin, end), 0))),
        1));
  });
  return parts.empty() ? mx::zeros({0}, mx::float32) : mx::concatenate(parts);
}

ByFeature by_feature(const Sparse& at, int features) {
  const int n = at.size();
  const mx::array all(static_cast<int64_t>(std::max(n, 1)), mx::int64);
  // Unique keys: of one feature in the order of the places.
  const auto keys = mx::sort(mx::add(
      mx::multiply(mx::astype(at.cols, mx::int64), all),
      mx::arange(0, n, mx::int64)));
  const auto counts = mx::scatter_add(
      mx::zeros({features}, mx::int32),
      at.cols,
      mx::ones({n, 1}, mx::int32),
      0);
  return {
      mx::astype(mx::remainder(keys, all), mx::int32),
      mx::concatenate(
          {mx::zeros({1}, mx::int32),
           mx::astype(mx::cumsum(counts), mx::int32)})};
}

FeatureSums outer(
    const Sparse& at, const ByFeature& places, const mx::array& G) {
  if (auto out = cuda::outer(at.rows, at.values, places.order, places.begin, G))
    return {out->first, out->second};
  return {
      scattered(at.values, at.rows, at.cols, G, places.features()),
      sums(at, places.features())};
}

mx::array sums(const Sparse& at, int features) {
  return mx::scatter_add(
      mx::zeros({features}, mx::float32),
      at.cols,
      mx::expand_dims(at.values, 1),
      0);
}

}  // namespace mlxterp::sae_train::ops
