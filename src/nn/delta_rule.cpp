#include "nn/delta_rule.h"

#include <algorithm>
#include <vector>

#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

constexpr int longest_chunk = 64;

// [batch, pos, head, d] as [batch, head, chunk, row, d], zeros behind the end.
mx::array in_chunks(const mx::array& x, int rows) {
  const int length = x.shape(1), chunks = (length + rows - 1) / rows;
  const auto whole = mx::pad(
      x, std::vector<int>{1}, mx::Shape{0}, mx::Shape{chunks * rows - length});
  return mx::reshape(
      mx::transpose(whole, {0, 2, 1, 3}),
      {x.shape(0), x.shape(2), chunks, rows, x.shape(3)});
}

// (1 + below)^-1, `below` strictly lower [..., n, n], n a power of two. Blocks
// on the diagonal double: their inverses are exact wherever that is, while a
// series in `below` grows without bound.
mx::array inverse_of_one_and(const mx::array& below) {
  const int n = below.shape(-1);
  const auto index = mx::arange(n);
  auto inverse = mx::broadcast_to(mx::eye(n), below.shape());
  for (int size = 1; size < n; size *= 2) {
    // What couples the two halves of a block of twice the size.
    const auto block = mx::floor_divide(index, mx::array(size));
    const auto pair = mx::floor_divide(index, mx::array(2 * size));
    const auto rows = [](const mx::array& x) { return mx::expand_dims(x, 1); };
    const auto coupling = mx::logical_and(
        mx::equal(rows(pair), pair), mx::not_equal(rows(block), block));
    const auto part = mx::where(coupling, below, mx::array(0.0f));
    inverse =
        mx::subtract(inverse, mx::matmul(inverse, mx::matmul(part, inverse)));
  }
  return inverse;
}

mx::array turned(const mx::array& x) {
  return mx::swapaxes(x, -1, -2);
}

// Number i of axis 2.
mx::array chunk(const mx::array& x, int i) {
  return mx::take(x, i, 2);
}

// Position i of [batch, pos, head, ...].
mx::array position(const mx::array& x, int i) {
  return mx::take(x, i, 1);
}

}  // namespace

// Where nothing is corrected, what is written is what there is. Otherwise
// inside a chunk the corrections of its positions depend on each other by a
// triangular system; between chunks the memory is carried (Yang et al., 2024,
// "Parallelizing linear transformers with the delta rule").
DeltaOutput delta_rule(const DeltaInput& in) {
  const int length = in.q.shape(1);
  int rows = 1;
  while (rows < std::min(length, longest_chunk))
    rows *= 2;
  const auto q = in_chunks(in.q, rows), k = in_chunks(in.k, rows),
             beta = in_chunks(in.beta, rows);
  const auto v = mx::multiply(in_chunks(in.v, rows), beta);
  const auto weighted = mx::multiply(k, beta);
  // How much of what was written at j is left at i: exp of the g's between.
  const auto g = mx::cumsum(in_chunks(in.g, rows), -2);  // [..., row, 1]
  const auto seen = mx::tri(rows, rows, 0, mx::bool_);
  const auto decay = mx::where(
      seen,
      mx::exp(mx::where(seen, mx::subtract(g, turned(g)), mx::array(0.0f))),
      mx::array(0.0f));
  const auto grown = mx::exp(g);
  auto values = v;
  std::optional<mx::array> reads;
  if (in.corrects) {
    const auto below =
        mx::tril(mx::multiply(mx::matmul(weighted, turned(k)), decay), -1);
    const auto inverse = inverse_of_one_and(below);
    values = mx::matmul(inverse, v);
    reads = mx::matmul(inverse, mx::multiply(weighted, grown));
  }
  const auto pattern =
      mx::multiply(mx::matmul(q, turned(k)), decay);  // [..., row, row]
  const auto queries = mx::multiply(q, grown);
  const auto last = mx::slice(
      g, {0, 0, 0, rows - 1, 0}, {g.shape(0), g.shape(1), g.shape(2), rows, 1});
  const auto writes = turned(mx::multiply(k, mx::exp(mx::subtract(last, g))));
  const auto left = mx::exp(last);

  auto state = in.initial;
  std::vector<mx::array> out;
  for (int i = 0; i < q.shape(2); ++i) {
    auto added = chunk(values, i);
    if (reads) added = mx::subtract(added, mx::matmul(chunk(*reads, i), state));
    out.push_back(mx::add(
        mx::matmul(chunk(queries, i), state),
        mx::matmul(chunk(pattern, i), added)));
    state = mx::add(
        mx::multiply(state, chunk(left, i)),
        mx::matmul(chunk(writes, i), added));
  }
  // [batch, head, pos, d]
  const auto all = out.size() == 1 ? out[0] : mx::concatenate(out, 2);
  const auto own = mx::slice(
      all, {0, 0, 0, 0}, {all.shape(0), all.shape(1), length, all.shape(3)});
  return {mx::transpose(own, {0, 2, 1, 3}), state};
}

DeltaSteps delta_steps(
    const DeltaInput& in, const std::optional<HeldStates>& held) {
  auto state = in.initial;
  std::vector<mx::array> out, states;
  for (int i = 0; i < in.q.shape(1); ++i) {
    const auto column = [&](const mx::array& x) {
      return mx::expand_dims(position(x, i), -1);  // [batch, head, d, 1]
    };
    const auto row = [&](const mx::array& x) {
      return mx::expand_dims(position(x, i), -2);  // [batch, head, 1, d]
    };
    state = mx::multiply(state, mx::exp(column(in.g)));
    auto written = row(in.v);
    if (in.corrects)
      written = mx::subtract(written, mx::matmul(row(in.k), state));
    state = mx::add(
        state,
        mx::multiply(column(in.k), mx::multiply(written, column(in.beta))));
    if (held)
      state = mx::where(
          position(held->changed, i), position(held->states, i), state);
    out.push_back(mx::squeeze(mx::matmul(row(in.q), state), -2));
    states.push_back(state);
  }
  return {mx::stack(out, 1), mx::stack(states, 1)};
}

}  // namespace mlxterp::nn
