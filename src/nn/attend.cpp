#include "nn/attend.h"

#include <algorithm>
#include <limits>

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "nn/simd/fused.h"
#include "nn/simd/kernels.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();

// Whether the last of so many positions sees all of them, and so every one.
bool sees_all(const AttentionConfig& config, int src) {
  return (config.window == 0 || src <= config.window) &&
         (config.chunk == 0 || src <= config.chunk);
}

// Which source each destination sees, bool [dest, src].
mx::array visible(const AttentionConfig& config, int dest, int src) {
  const int window = config.window, chunk = config.chunk;
  // A small one is made here: four ops take longer to launch on a GPU.
  constexpr int small = 1 << 16;
  if (dest <= small / src) {
    std::vector<uint8_t> seen(
        static_cast<size_t>(dest) * static_cast<size_t>(src));
    for (int i = 0; i < dest; ++i) {
      const int last = src - dest + i;
      const int first = std::max(
          window == 0 ? 0 : std::max(0, last - window + 1),
          chunk == 0 ? 0 : last - last % chunk);
      std::fill_n(
          seen.begin() + static_cast<long>(i) * src + first,
          last + 1 - first,
          1);
    }
    return mx::array(seen.data(), {dest, src}, mx::bool_);
  }
  const auto rows = mx::reshape(mx::arange(src - dest, src), {dest, 1});
  const auto columns = mx::arange(src);
  auto seen = mx::greater_equal(rows, columns);
  if (window > 0 && src > window)
    seen = mx::logical_and(
        seen, mx::greater(columns, mx::subtract(rows, mx::array(window))));
  if (chunk > 0 && src > chunk) {
    const mx::array by(chunk);
    seen = mx::logical_and(
        seen,
        mx::equal(mx::floor_divide(rows, by), mx::floor_divide(columns, by)));
  }
  return seen;
}

// In one of MLX's ops; q, k, v and where there are some sinks [head].
mx::array in_one(
    const AttentionConfig& config, const std::vector<mx::array>& in) {
  const int dest = in[0].shape(2), src = in[1].shape(2);
  const auto run = [&](const char* mode, std::optional<mx::array> mask) {
    return mx::fast::scaled_dot_product_attention(
        in[0],
        in[1],
        in[2],
        config.scale,
        mode,
        std::move(mask),
        in.size() > 3 ? std::optional(in[3]) : std::nullopt);
  };
  const bool biased = !config.alibi.slopes.empty();
  if (!biased && sees_all(config, src)) return run("causal", {});
  const auto seen = visible(config, dest, src);
  if (!biased) return run("array", seen);
  const auto bias = config.alibi(dest, src);
  return run(
      "array",
      mx::astype(
          mx::where(seen, bias, mx::array(minus_infinity)), in[0].dtype()));
}

std::vector<mx::array> inputs(
    const std::optional<mx::array>& sinks,
    const mx::array& q,
    const mx::array& k,
    const mx::array& v) {
  std::vector<mx::array> all{q, k, v};
  if (sinks) all.push_back(mx::contiguous(mx::astype(*sinks, q.dtype())));
  return all;
}

simd::Heads heads_of(const mx::array& x) {
  const auto& by = x.strides();
  return {x.data<float>(), {by[0], by[1], by[2], by[3]}};
}

// Our own loop knows neither a cap nor biases that are rounded nor values of
// another width than keys.
bool vectorised(
    const AttentionConfig& config, const std::vector<mx::array>& in) {
  return config.softcap == 0 && !config.alibi.rounded &&
         config.d_value == config.d_head &&
         std::ranges::all_of(in, simd::applies_to);
}

// What it needs to know of arrays that are evaluated.
simd::AttentionShape shape_of(
    const AttentionConfig& config, const std::vector<mx::array>& in) {
  const auto size = [&](size_t which, int axis) {
    return static_cast<size_t>(in[which].shape(axis));
  };
  const auto& slopes = config.alibi.slopes;
  return {
      .batch = size(0, 0),
      .heads = size(0, 1),
      .kv_heads = size(1, 1),
      .dest = size(0, 2),
      .src = size(1, 2),
      .d_head = size(0, 3),
      .window = static_cast<size_t>(config.window),
      .scale = config.scale,
      .sinks = in.size() > 3 ? in[3].data<float>() : nullptr,
      .slopes = slopes.empty() ? nullptr : slopes.data(),
      .chunk = static_cast<size_t>(config.chunk),
  };
}

// Neighbours of one shape that go on from one run: they mix as a batch.
struct Stretch {
  PackedBatch::Sequence first;
  int batch;
};

std::vector<Stretch> stretches(const PackedBatch& packed) {
  std::vector<Stretch> all;
  for (const auto& it : packed.sequences) {
    const bool joins =
        !all.empty() && all.back().first.first == it.first &&
        all.back().first.length == it.length &&
        (it.first == 0 || all.back().first.prefix_row == it.prefix_row);
    if (joins)
      ++all.back().batch;
    else
      all.push_back({it, 1});
  }
  return all;
}

// Rows of x [1, row, head, d] as [batch, head, n, d].
mx::array rows_of(const mx::array& x, int row, int n, int batch) {
  const int heads = x.shape(2), d = x.shape(3);
  const auto some =
      mx::slice(x, {0, row, 0, 0}, {1, row + n * batch, heads, d});
  return swap_pos_head(mx::reshape(some, {batch, n, heads, d}));
}

// One shape at a time, through explicit scores: on CUDA the fused op makes a
// plan of 50 ms for every new shape, and sweeps have many.
mx::array by_stretches(
    const AttentionConfig& config,
    const PackedBatch& packed,
    const std::vector<mx::array>& in) {
  const auto rows_q = swap_pos_head(in[0]), rows_k = swap_pos_head(in[1]),
             rows_v = swap_pos_head(in[2]);
  const auto sinks =
      as_scores(in.size() > 3 ? std::optional(in[3]) : std::nullopt);
  std::vector<mx::array> parts;
  for (const auto& [it, batch] : stretches(packed)) {
    const auto own = [&, at = it, n = batch](const mx::array& x) {
      return rows_of(x, at.row, at.length, n);
    };
    // The prefix that they continue, once for all, and each one's own rows.
    const auto whole = [&, at = it, n = batch](const mx::array& x) {
      if (at.first == 0) return own(x);
      const auto before = rows_of(x, at.prefix_row, at.first, 1);
      auto shape = before.shape();
      shape[0] = n;
      return mx::concatenate({mx::broadcast_to(before, shape), own(x)}, 2);
    };
    const auto some_q = own(rows_q);
    const auto weights =
        weights_of(scores_of(config, some_q, whole(rows_k)), sinks);
    auto shape = some_q.shape();
    shape.back() = config.d_value;
    const auto z = mx::reshape(
        mx::matmul(by_group(weights.pattern, config.n_kv_heads), whole(rows_v)),
        shape);
    parts.push_back(
        mx::reshape(swap_pos_head(z), {1, -1, config.n_heads, config.d_value}));
  }
  return parts.size() == 1 ? parts[0] : mx::concatenate(std::move(parts), 1);
}

}  // namespace

mx::array swap_pos_head(const mx::array& x) {
  return mx::transpose(x, {0, 2, 1, 3});
}

mx::array by_group(const mx::array& x, int n_kv_heads) {
  return mx::reshape(x, {x.shape(0), n_kv_heads, -1, x.shape(3)});
}

mx::array scores_of(
    const AttentionConfig& config,
    const mx::array& q,
    const mx::array& k,
    const std::optional<mx::array>& bias) {
  const int dest = q.shape(2), src = k.shape(2);
  auto s = mx::matmul(
      by_group(
          mx::multiply(q, mx::array(config.scale, q.dtype())),
          config.n_kv_heads),
      mx::swapaxes(k, 2, 3));
  s = mx::reshape(s, {q.shape(0), config.n_heads, dest, src});
  if (config.softcap > 0) {
    const mx::array cap(config.softcap, s.dtype());
    s = mx::multiply(mx::tanh(mx::divide(s, cap)), cap);
  }
  if (bias)
    s = mx::astype(mx::add(s, *bias), s.dtype());
  else if (!config.alibi.slopes.empty())
    s = mx::astype(mx::add(s, config.alibi(dest, src)), s.dtype());
  return mx::where(
      visible(config, dest, src), s, mx::array(minus_infinity, s.dtype()));
}

Weights weights_of(
    const mx::array& scores, const std::optional<mx::array>& sinks) {
  const auto softmax = [](const mx::array& x) {
    return mx::softmax(x, -1, /*precise=*/true);
  };
  if (!sinks) return {softmax(scores)};
  auto one = scores.shape();
  one.back() = 1;
  const auto column = mx::broadcast_to(mx::astype(*sinks, scores.dtype()), one);
  const auto all = softmax(mx::concatenate({scores, column}, -1));
  const auto parts = mx::split(all, mx::Shape{scores.shape(-1)}, -1);
  return {parts[0], parts[1]};
}

std::optional<mx::array> as_scores(const std::optional<mx::array>& sinks) {
  if (!sinks) return std::nullopt;
  return mx::reshape(*sinks, {1, -1, 1, 1});
}

mx::array attend(
    const AttentionConfig& config,
    const std::optional<mx::array>& sinks,
    const mx::array& q,
    const mx::array& k,
    const mx::array& v) {
  auto in = inputs(sinks, q, k, v);
  if (!vectorised(config, in)) return in_one(config, in);
  return swap_pos_head(simd::fused(
      "attend",
      {q.shape(0), q.shape(2), q.shape(1), q.shape(3)},
      std::move(in),
      [config](const std::vector<mx::array>& all) {
        return std::vector{swap_pos_head(in_one(config, all))};
      },
      [config](const std::vector<mx::array>& all, float* out) {
        simd::attend(
            shape_of(config, all),
            heads_of(all[0]),
            heads_of(all[1]),
            heads_of(all[2]),
            out);
      }));
}

mx::array attend_packed(
    const AttentionConfig& config,
    const std::optional<mx::array>& sinks,
    const mx::array& q,
    const mx::array& k,
    const mx::array& v,
    const std::shared_ptr<const PackedBatch>& packed) {
  auto in = inputs(sinks, q, k, v);
  const auto plain = [config, packed](const std::vector<mx::array>& all) {
    return std::vector{by_stretches(config, *packed, all)};
  };
  if (!vectorised(config, in)) return swap_pos_head(plain(in)[0]);
  return swap_pos_head(simd::fused(
      "attend_packed",
      {1, q.shape(2), q.shape(1), q.shape(3)},
      std::move(in),
      plain,
      [config, packed](const std::vector<mx::array>& all, float* out) {
        simd::attend_packed(
            shape_of(config, all),
            *packed,
            heads_of(all[0]),
            heads_of(all[1]),
            heads_of(all[2]),
            out);
      }));
}

std::vector<int> hidden(const PackedBatch& packed, const mx::array& k) {
  const int seen = packed.padding[0] + packed.sequences[0].first + 1;
  std::vector<int> all;
  for (const int padding : packed.padding)
    all.push_back(std::max(0, padding - (seen - k.shape(2))));
  return all;
}

mx::array attend_joint(
    const AttentionConfig& config,
    const std::optional<mx::array>& sinks,
    const mx::array& q,
    const mx::array& k,
    const mx::array& v,
    const std::vector<int>& hidden) {
  const auto one_each = [](const mx::array& x) {
    return mx::transpose(x, {2, 1, 0, 3});
  };
  const auto own_q = one_each(q);
  const bool full = std::ranges::all_of(hidden, [](int n) { return n == 0; });
  if (full && config.softcap == 0)
    return one_each(attend(config, sinks, own_q, k, v));
  auto in = inputs(sinks, own_q, k, v);
  const auto plain = [config, hidden](const std::vector<mx::array>& all) {
    const int n = all[0].shape(0), src = all[1].shape(2);
    const auto empty = mx::less(
        mx::arange(src),
        mx::reshape(mx::array(hidden.data(), {n}, mx::int32), {n, 1, 1, 1}));
    const auto scores = scores_of(config, all[0], all[1]);
    const auto weights = weights_of(
        mx::where(empty, mx::array(minus_infinity, scores.dtype()), scores),
        as_scores(all.size() > 3 ? std::optional(all[3]) : std::nullopt));
    const auto z =
        mx::matmul(by_group(weights.pattern, config.n_kv_heads), all[2]);
    return std::vector{mx::reshape(z, {n, config.n_heads, 1, config.d_value})};
  };
  if (!vectorised(config, in)) return one_each(plain(in)[0]);
  return mx::transpose(
      simd::fused(
          "attend_joint",
          {own_q.shape(0), 1, own_q.shape(1), own_q.shape(3)},
          std::move(in),
          [plain](const std::vector<mx::array>& all) {
            return std::vector{swap_pos_head(plain(all)[0])};
          },
          [config, hidden](const std::vector<mx::array>& all, float* out) {
            auto shape = shape_of(config, all);
            const size_t src = shape.src;
            shape.batch = 1;
            for (size_t row = 0; row < hidden.size(); ++row) {
              const auto skipped = static_cast<size_t>(hidden[row]);
              shape.src = src - skipped;
              const auto from = [&](size_t which, size_t position) {
                auto heads = heads_of(all[which]);
                heads.data += static_cast<int64_t>(row) * heads.strides[0] +
                              static_cast<int64_t>(position) * heads.strides[2];
                return heads;
              };
              simd::attend(
                  shape,
                  from(0, 0),
                  from(1, skipped),
                  from(2, skipped),
                  out + row * shape.heads * shape.d_head);
            }
          }),
      {1, 2, 0, 3});
}

}  // namespace mlxterp::nn
