#include "sae/train/sparse_ops.h"

#include <algorithm>

#include "mlx/ops.h"

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
    const mx::array& pre, int k, const std::optional<std::vector<int>>& among) {
  const int rows = pre.shape(0);
  auto all = pre;
  std::optional<mx::array> names;
  if (among) {
    names = mx::array(
        among->data(), mx::Shape{static_cast<int>(among->size())}, mx::int32);
    all = mx::take(pre, *names, 1);
  }
  const int n = all.shape(1);
  const int each = std::min(k, n);
  auto chosen = mx::astype(
      mx::slice(
          mx::argpartition(mx::negative(all), each - 1, 1),
          {0, 0},
          {rows, each}),
      mx::int32);
  const auto values = mx::take_along_axis(all, chosen, 1);
  if (names) chosen = mx::take(*names, chosen, 0);
  const auto row_of = mx::broadcast_to(
      mx::reshape(mx::arange(0, rows, mx::int32), {rows, 1}), {rows, each});
  return {mx::flatten(row_of), mx::flatten(chosen), mx::flatten(values)};
}

Sparse top_of_all(const mx::array& pre, int64_t n) {
  const auto all = mx::flatten(mx::maximum(pre, mx::array(0.0f)));
  const int each = static_cast<int>(std::min<int64_t>(n, all.shape(0)));
  // Rows ascend where places do.
  const auto places = mx::sort(mx::astype(
      mx::slice(mx::argpartition(mx::negative(all), each - 1, 0), {0}, {each}),
      mx::int32));
  const mx::array width(pre.shape(1), mx::int32);
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
  return scattered(acts.values, acts.cols, acts.rows, W, rows);
}

mx::array dots(const Sparse& at, const mx::array& G, const mx::array& W) {
  std::vector<mx::array> parts;
  in_parts(at.size(), G.shape(1), [&](int begin, int end) {
    parts.push_back(mx::sum(
        mx::multiply(
            mx::take(G, stretch(at.rows, begin, end), 0),
            mx::take(W, stretch(at.cols, begin, end), 0)),
        1));
  });
  return parts.empty() ? mx::zeros({0}, mx::float32) : mx::concatenate(parts);
}

mx::array outer(const Sparse& at, const mx::array& G, int features) {
  return scattered(at.values, at.rows, at.cols, G, features);
}

mx::array sums(const Sparse& at, int features) {
  return mx::scatter_add(
      mx::zeros({features}, mx::float32),
      at.cols,
      mx::expand_dims(at.values, 1),
      0);
}

}  // namespace mlxterp::sae_train::ops
