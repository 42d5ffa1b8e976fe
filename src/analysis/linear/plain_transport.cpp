// Rows of cotangents through a layer that is taken apart.

#include <algorithm>
#include <utility>

#include "analysis/linear/plain_layer.h"
#include "core/lanes.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/stream.h"
#include "nn/cuda/layer_slopes.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Pieces that are in work side by side.
constexpr int most_lanes = 8;

// What is in work at a time: numbers of what is between queries and keys, and
// positions whose MLP's Jacobians are there.
struct AtOnce {
  size_t scores;
  int positions;
};

AtOnce at_once() {
  // A cache holds the one, a GPU is kept busy by the other.
  return mx::default_device() == mx::Device::cpu ? AtOnce{size_t{12} << 20, 4}
                                                 : AtOnce{size_t{24} << 20, 16};
}

mx::array part(const mx::array& x, int axis, int from, int to) {
  auto first = mx::Shape(x.ndim(), 0), last = x.shape();
  first[static_cast<size_t>(axis)] = from;
  last[static_cast<size_t>(axis)] = to;
  return mx::slice(x, first, last);
}

// Of positions [from, to).
NormSlope part(const NormSlope& it, int from, int to) {
  return {
      .gain = it.gain,
      .normalized = part(it.normalized, 0, from, to),
      .inverse = part(it.inverse, 0, from, to),
      .centred = it.centred};
}

}  // namespace

mx::array PlainLayer::transport(mx::array rows) const {
  if (whole_) rows = mx::multiply(rows, *whole_);
  if (how_.in_place) return over_itself(std::move(rows));
  if (parallel_) {
    auto beside = through_mlp(rows);
    return through_attention(rows, beside);
  }
  rows = through_mlp(rows);
  return through_attention(rows, rows);
}

// One array of all rows is what a GPU has room for: a piece after the other is
// written where it came from.
mx::array PlainLayer::over_itself(mx::array rows) const {
  const auto each = [](mx::array& to, int axis, int step, const auto& make) {
    const int n = to.shape(axis);
    for (int from = 0; from < n; from += step) {
      auto piece = make(from, std::min(n, from + step));
      piece.eval();
      // Until then a GPU's queue holds on to what the piece was made of.
      mx::synchronize();
      auto first = mx::Shape(3, 0), last = to.shape();
      first[static_cast<size_t>(axis)] = from;
      last[static_cast<size_t>(axis)] = from + piece.shape(axis);
      to = mx::slice_update(to, piece, first, last);
    }
    to.eval();
  };
  rows.eval();
  // Of parallel layers attention reads what the MLP did.
  const auto before = parallel_ ? std::optional(rows) : std::nullopt;
  each(rows, 0, at_once().positions, [&](int from, int to) {
    return mlp_of_positions(part(rows, 0, from, to), from, to);
  });
  each(rows, 1, rows_of_attention(rows.shape(1)), [&](int from, int to) {
    const auto onto = mx::contiguous(part(rows, 1, from, to));
    return attention_chunk(before ? part(*before, 1, from, to) : onto, onto);
  });
  return rows;
}

// The same by one product for each position, or for each row.
bool PlainLayer::by_position(int count) const {
  const int64_t d = mlp_->down.shape(0), f = mlp_->down.shape(1);
  return count * (3 * f - d) > d * f;
}

mx::array PlainLayer::mlp_of_positions(
    const mx::array& rows, int from, int to) const {
  const auto& it = *mlp_;
  const auto some = [&](const mx::array& x) { return part(x, 0, from, to); };
  const auto leaving = it.post
                           ? back(part(*it.post, from, to), rows, how_.numbers)
                           : mx::astype(rows, how_.numbers);
  const auto by_up = some(it.by_up);
  std::optional<mx::array> by_gate;
  if (it.gate) by_gate = some(*it.by_gate);
  auto added = leaving;
  if (by_position(rows.shape(1))) {
    added = mx::matmul(leaving, mx::matmul(it.down, inner(by_up, by_gate)));
  } else {
    const auto hidden = mx::matmul(leaving, it.down);
    added = mx::matmul(mx::multiply(hidden, mx::expand_dims(by_up, 1)), it.up);
    if (it.gate)
      added = mx::add(
          added,
          mx::matmul(
              mx::multiply(hidden, mx::expand_dims(*by_gate, 1)), *it.gate));
  }
  return ln2_ ? added_through(part(*ln2_, from, to), added, rows)
              : mx::add(rows, added);
}

// What is between the MLP's products, [pos, d_mlp, d_model].
mx::array PlainLayer::inner(
    const mx::array& by_up, const std::optional<mx::array>& by_gate) const {
  const auto& it = *mlp_;
  if (auto out = cuda::scaled_rows(by_up, it.up, by_gate, it.gate)) return *out;
  auto out = mx::multiply(mx::expand_dims(by_up, -1), it.up);
  return it.gate
             ? mx::add(
                   out, mx::multiply(mx::expand_dims(*by_gate, -1), *it.gate))
             : out;
}

// The rows and what the MLP adds to them.
mx::array PlainLayer::through_mlp(const mx::array& rows) const {
  const auto& it = *mlp_;
  const int n = rows.shape(0), count = rows.shape(1), d = rows.shape(2);
  if (!by_position(count)) {
    auto out = mlp_of_positions(rows, 0, n);
    out.eval();
    return out;
  }
  std::optional<Columns> taken;
  if (ln2_) taken = columns_of(*ln2_, how_.numbers);
  const auto identity = mx::eye(d);
  const int positions = at_once().positions;
  const auto piece = [&](size_t i) {
    const int p = static_cast<int>(i) * positions;
    const int to = std::min(n, p + positions);
    const auto some = [&](const mx::array& x) { return part(x, 0, p, to); };
    std::optional<mx::array> by_gate;
    if (it.gate) by_gate = some(*it.by_gate);
    auto jacobian = mx::matmul(it.down, inner(some(it.by_up), by_gate));
    if (it.post) {
      // Its derivative from the left: rows of what leaves it.
      const auto x = mx::expand_dims(some(it.post->normalized), -1);
      const mx::array by(1.0f / static_cast<float>(d));
      auto out = mx::subtract(
          jacobian,
          mx::multiply(
              x,
              mx::multiply(mx::matmul(mx::swapaxes(x, -1, -2), jacobian), by)));
      if (it.post->centred)
        out = mx::subtract(out, mx::mean(jacobian, -2, true));
      jacobian = mx::multiply(
          out,
          mx::multiply(
              mx::expand_dims(it.post->gain, -1),
              mx::expand_dims(some(it.post->inverse), -1)));
    }
    if (taken)
      jacobian = mx::addmm(
          jacobian, mx::matmul(jacobian, some(taken->c)), some(taken->away));
    return mx::matmul(some(rows), mx::add(jacobian, identity));
  };
  const int pieces = (n + positions - 1) / positions;
  auto out = mx::concatenate(
      Lanes(most_lanes).each(static_cast<size_t>(pieces), piece), 0);
  out.eval();
  return out;
}

int PlainLayer::rows_of_attention(int count) const {
  const auto& it = *attention_;
  const size_t per_row =
      static_cast<size_t>(it.kv_heads) * static_cast<size_t>(it.group) *
      static_cast<size_t>(to_ - from_) * static_cast<size_t>(to_);
  return static_cast<int>(std::clamp<size_t>(
      at_once().scores / per_row, 1, static_cast<size_t>(count)));
}

mx::array PlainLayer::through_attention(
    const mx::array& rows, const mx::array& onto) const {
  const int count = rows.shape(1), most = rows_of_attention(count);
  auto parts =
      Lanes(most_lanes)
          .each(static_cast<size_t>((count + most - 1) / most), [&](size_t i) {
            const int r = static_cast<int>(i) * most;
            const int to = std::min(count, r + most);
            return attention_chunk(part(rows, 1, r, to), part(onto, 1, r, to));
          });
  if (parts.size() == 1) return parts[0];
  auto out = mx::concatenate(std::move(parts), 1);
  out.eval();
  return out;
}

mx::array PlainLayer::attention_chunk(
    const mx::array& rows, const mx::array& onto) const {
  const auto& it = *attention_;
  const int n = rows.shape(0), count = rows.shape(1);
  const int kv = it.kv_heads, group = it.group, d = it.d_head,
            d_value = it.d_value;
  const auto leaving = ln1_post_ ? back(*ln1_post_, rows, how_.numbers)
                                 : mx::astype(rows, how_.numbers);
  // [kv_head, group, pos, row, d_value]
  const auto dz = mx::contiguous(mx::transpose(
      mx::reshape(mx::matmul(leaving, it.w_o), {n, count, kv, group, d_value}),
      {2, 3, 0, 1, 4}));
  const auto ds = mx::matmul(dz, it.to_scores);  // [..., pos, row, source]
  const auto dq = mx::matmul(dz, it.to_q);  // [kv_head, group, pos, row, d]
  const auto of_keys = mx::reshape(
      mx::matmul(
          mx::swapaxes(mx::reshape(ds, {kv, group * n, count * to_}), 1, 2),
          it.queries),
      {kv, count, to_, d});
  const auto dk =
      mx::matmul(mx::swapaxes(part(of_keys, 2, from_, to_), 1, 2), it.turn);
  const auto dv = mx::reshape(
      mx::matmul(it.late, mx::reshape(dz, {kv, group * n, count * d_value})),
      {kv, n, count, d_value});
  // [pos, row, head, d] each
  const auto by_row = [&](const mx::array& x) {
    const int width = x.shape(-1);
    return mx::transpose(mx::reshape(x, {-1, n, count, width}), {1, 2, 0, 3});
  };
  const auto flat = [&](const mx::array& x) {
    return mx::reshape(x, {n, count, -1});
  };
  const auto entering =
      d == d_value
          ? flat(mx::concatenate({by_row(dq), by_row(dk), by_row(dv)}, 2))
          : mx::concatenate(
                {flat(by_row(dq)), flat(by_row(dk)), flat(by_row(dv))}, -1);
  const auto added = mx::matmul(entering, it.w_in);
  return ln1_ ? added_through(*ln1_, added, onto) : mx::add(onto, added);
}

}  // namespace mlxterp
