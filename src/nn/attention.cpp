#include "mlxterp/nn/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/fail.h"
#include "mlx/fast.h"
#include "mlx/ops.h"
#include "nn/simd/fused.h"
#include "nn/simd/kernels.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

// Turns [batch, pos, head, d] into [batch, head, pos, d] and back.
mx::array swap_pos_head(const mx::array& x) {
  return mx::transpose(x, {0, 2, 1, 3});
}

mx::array pattern_of(const mx::array& scores) {
  return mx::softmax(scores, -1, /*precise=*/true);
}

// Joins each group of query heads that share a kv head, so that one product
// serves the group: [batch, head, pos, d] to [batch, kv_head, group * pos, d].
mx::array by_group(const mx::array& x, int n_kv_heads) {
  return mx::reshape(x, {x.shape(0), n_kv_heads, -1, x.shape(3)});
}

// Which source each destination sees, bool [dest, src].
mx::array visible(int dest, int src, int window) {
  // A small one is made here: four ops take longer to launch on a GPU.
  constexpr int small = 1 << 16;
  if (dest <= small / src) {
    std::vector<uint8_t> seen(
        static_cast<size_t>(dest) * static_cast<size_t>(src));
    for (int i = 0; i < dest; ++i) {
      const int last = src - dest + i;
      const int first = window == 0 ? 0 : std::max(0, last - window + 1);
      std::fill_n(
          seen.begin() + static_cast<long>(i) * src + first,
          last + 1 - first,
          1);
    }
    return mx::array(seen.data(), {dest, src}, mx::bool_);
  }
  const auto rows = mx::reshape(mx::arange(src - dest, src), {dest, 1});
  const auto columns = mx::arange(src);
  auto causal = mx::greater_equal(rows, columns);
  if (window == 0 || src <= window) return causal;
  const auto first = mx::subtract(rows, mx::array(window));
  return mx::logical_and(causal, mx::greater(columns, first));
}

simd::Heads heads_of(const mx::array& x) {
  const auto& by = x.strides();
  return {x.data<float>(), {by[0], by[1], by[2], by[3]}};
}

bool vectorised(const mx::array& q, const mx::array& k, const mx::array& v) {
  return simd::applies_to(q) && simd::applies_to(k) && simd::applies_to(v);
}

simd::AttentionShape shape_of(
    const mx::array& q, const mx::array& k, float scale, int window) {
  const auto size = [](const mx::array& x, int axis) {
    return static_cast<size_t>(x.shape(axis));
  };
  return {
      .batch = size(q, 0),
      .heads = size(q, 1),
      .kv_heads = size(k, 1),
      .dest = size(q, 2),
      .src = size(k, 2),
      .d_head = size(q, 3),
      .window = static_cast<size_t>(window),
      .scale = scale,
  };
}

// Scores, softmax and mix as one op, [batch, head, pos, d_head].
mx::array fused(
    const mx::array& q,
    const mx::array& k,
    const mx::array& v,
    float scale,
    int window) {
  const auto plain = [scale, window](const std::vector<mx::array>& in) {
    const int dest = in[0].shape(2), src = in[1].shape(2);
    const bool all = window == 0 || src <= window;
    return std::vector{
        all ? mx::fast::scaled_dot_product_attention(
                  in[0], in[1], in[2], scale, "causal")
            : mx::fast::scaled_dot_product_attention(
                  in[0],
                  in[1],
                  in[2],
                  scale,
                  "array",
                  visible(dest, src, window))};
  };
  if (!vectorised(q, k, v)) return plain({q, k, v})[0];
  const auto z = simd::fused(
      "attend",
      {q.shape(0), q.shape(2), q.shape(1), q.shape(3)},
      {q, k, v},
      [plain](const std::vector<mx::array>& in) {
        return std::vector{swap_pos_head(plain(in)[0])};
      },
      [shape = shape_of(q, k, scale, window)](
          const std::vector<mx::array>& in, float* out) {
        simd::attend(
            shape, heads_of(in[0]), heads_of(in[1]), heads_of(in[2]), out);
      });
  return swap_pos_head(z);
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

}  // namespace

Attention::Attention(const AttentionConfig& config)
    : q_proj(config.d_model, config.n_heads * config.d_head, config.qkv_bias),
      k_proj(
          config.d_model, config.n_kv_heads * config.d_head, config.qkv_bias),
      v_proj(
          config.d_model, config.n_kv_heads * config.d_head, config.qkv_bias),
      o_proj(config.n_heads * config.d_head, config.d_model, config.out_bias),
      config_(config),
      scale_(
          config.scale > 0
              ? config.scale
              : 1.0f / std::sqrt(static_cast<float>(config.d_head))) {
  describe(
      {.width = config.d_model},
      {.width = config.d_model, .stage = Stage::after});
  add("q_proj", q_proj);
  add("k_proj", k_proj);
  add("v_proj", v_proj);
  add("o_proj", o_proj, Stage::after);
  add_norms();
  const auto query = traits(Heads::query), kv = traits(Heads::kv);
  q_ = site("q", query);
  k_ = site("k", kv);
  v_ = site("v", kv);
  const auto offered = [](SiteTraits it) {
    it.offered = true;
    return it;
  };
  rot_q_ = site("rot_q", offered(query));
  rot_k_ = site("rot_k", offered(kv));
  auto scores = offered(query);
  scores.layout = Layout::scores;
  scores.width = 0;
  scores_ = site("scores", scores);
  pattern_ = site("pattern", scores);
  z_ = site("z", query);
  auto result = offered(query);
  result.width = config.d_model;
  result.stage = Stage::after;
  result_ = site("result", result);
  if (config.q_scale) q_scale_ = site("q_scale", {.width = 1});
}

SiteTraits Attention::traits(Heads heads) const {
  return {
      .layout = Layout::heads,
      .heads = heads,
      .n_heads = heads == Heads::kv ? config_.n_kv_heads : config_.n_heads,
      .width = config_.d_head};
}

void Attention::add_norms() {
  using QkNorm = AttentionConfig::QkNorm;
  const int d = config_.d_head;
  const auto make = [&](std::optional<Norm>& norm, Heads of) {
    const auto each = traits(of);
    if (config_.qk_norm == QkNorm::together)
      norm.emplace(each.n_heads * d, config_.norm);
    else if (config_.qk_norm == QkNorm::head)
      norm.emplace(mx::Shape{d}, config_.norm, each);
    else
      norm.emplace(mx::Shape{each.n_heads, d}, config_.norm, each);
  };
  if (config_.qk_norm == QkNorm::none) return;
  make(q_norm, Heads::query);
  make(k_norm, Heads::kv);
  add("q_norm", *q_norm);
  add("k_norm", *k_norm);
}

mx::array Attention::normed(
    const std::optional<Norm>& norm, const mx::array& x, Pass& pass) const {
  if (!norm) return x;
  if (config_.qk_norm != AttentionConfig::QkNorm::together)
    return (*norm)(x, pass);
  const auto flat = mx::reshape(x, {x.shape(0), x.shape(1), -1});
  return mx::reshape((*norm)(flat, pass), x.shape());
}

mx::array Attention::query_scale(const mx::array& x, Pass& pass) const {
  const int batch = x.shape(0), length = x.shape(1);
  std::vector<int> positions(static_cast<size_t>(length));
  if (pass.packed())
    positions = pass.packed()->positions();
  else
    std::iota(positions.begin(), positions.end(), pass.cache_offset());
  std::vector<float> by;
  for (const int position : positions) {
    const auto times = static_cast<float>(position / config_.q_scale->every);
    by.push_back(1.0f + config_.q_scale->beta * std::log1p(times));
  }
  const auto rows = mx::astype(mx::array(by.data(), {1, length, 1}), x.dtype());
  return tap(pass, *q_scale_, mx::broadcast_to(rows, {batch, length, 1}));
}

mx::array Attention::forward(const mx::array& x, Pass& pass) const {
  const int batch = x.shape(0), length = x.shape(1);
  const auto heads = [&](const Linear& project, int n) {
    return mx::reshape(project(x, pass), {batch, length, n, config_.d_head});
  };
  const auto clipped = [&](mx::array y) {
    const float most = config_.clip_qkv;
    if (most == 0) return y;
    return mx::clip(y, mx::array(-most, y.dtype()), mx::array(most, y.dtype()));
  };
  const int n_kv = config_.n_kv_heads;
  const bool late = config_.norm_rotated;
  auto q = tap(pass, q_, heads(q_proj, config_.n_heads));
  q = clipped(late ? q : normed(q_norm, q, pass));
  auto k = tap(pass, k_, heads(k_proj, n_kv));
  k = clipped(late ? k : normed(k_norm, k, pass));
  const auto v = tap(pass, v_, clipped(heads(v_proj, n_kv)));

  const auto& packed = pass.packed();
  const int held = pass.cache_offset();
  if (held > 0 && !config_.rope.same_angles(held, held + length))
    fail(
        ErrorKind::usage,
        "[Attention] this model's RoPE scaling differs between lengths {} and "
        "{}, which the cache holds; start with an empty cache and give it all "
        "positions at once",
        held + length,
        held);
  // The sites speak [batch, pos, head, d_head], the rotation works on
  // [batch, head, pos, d_head]: turn back only for who looks.
  const auto rotate = [&](const mx::array& y,
                          const std::optional<Norm>& norm,
                          const std::optional<mx::array>& by,
                          Slot slot) {
    auto turned = swap_pos_head(y);
    if (config_.rope.dims > 0)
      turned =
          packed ? config_.rope(turned, *packed) : config_.rope(turned, held);
    if (late) turned = swap_pos_head(normed(norm, swap_pos_head(turned), pass));
    if (by) turned = mx::multiply(turned, mx::expand_dims(*by, 1));
    if (pass.edits(id(slot)))
      return swap_pos_head(tap(pass, slot, swap_pos_head(turned)));
    pass.offer(id(slot), [turned] { return swap_pos_head(turned); });
    return turned;
  };
  std::optional<mx::array> by;
  if (q_scale_) by = query_scale(x, pass);
  const auto rot_q = rotate(q, q_norm, by, rot_q_),
             rot_k = rotate(k, k_norm, std::nullopt, rot_k_);

  auto all_k = rot_k, all_v = swap_pos_head(v);
  if (pass.cache()) {
    const auto& all = pass.cache()->append(this, held, all_k, all_v);
    all_k = all.k;
    all_v = all.v;
  }
  auto z = swap_pos_head(mix(rot_q, all_k, all_v, pass));
  z = pass.gather_output_rows(tap(pass, z_, std::move(z)));
  if (pass.edits(id(result_))) {
    auto out = mx::sum(tap(pass, result_, per_head(z)), 2);
    if (o_proj.bias) out = mx::add(out, *o_proj.bias);
    return o_proj.output_from(std::move(out), pass);
  }
  pass.offer(id(result_), [this, z] { return per_head(z); });
  return o_proj(mx::reshape(z, {batch, z.shape(1), -1}), pass);
}

mx::array Attention::pattern(
    const mx::array& rot_q, const mx::array& rot_k) const {
  return pattern_of(scores(rot_q, rot_k));
}

mx::array Attention::scores(const mx::array& q, const mx::array& k) const {
  const int dest = q.shape(2), src = k.shape(2);
  auto s = mx::matmul(
      by_group(
          mx::multiply(q, mx::array(scale_, q.dtype())), config_.n_kv_heads),
      mx::swapaxes(k, 2, 3));
  s = mx::reshape(s, {q.shape(0), config_.n_heads, dest, src});
  if (config_.softcap > 0) {
    const mx::array cap(config_.softcap, s.dtype());
    s = mx::multiply(mx::tanh(mx::divide(s, cap)), cap);
  }
  const float masked = -std::numeric_limits<float>::infinity();
  return mx::where(
      visible(dest, src, config_.window), s, mx::array(masked, s.dtype()));
}

mx::array Attention::mix(
    const mx::array& q,
    const mx::array& k,
    const mx::array& v,
    Pass& pass) const {
  const bool edited = pass.edits(id(scores_)) || pass.edits(id(pattern_));
  // Step by step, each a site.
  const auto opened = [&](const mx::array& some_q,
                          const mx::array& some_k,
                          const mx::array& some_v) {
    auto pattern = pattern_of(tap(pass, scores_, scores(some_q, some_k)));
    pattern = tap(pass, pattern_, std::move(pattern));
    const auto z = mx::matmul(by_group(pattern, config_.n_kv_heads), some_v);
    return mx::reshape(z, some_q.shape());
  };
  if (pass.packed()) {
    if (!edited) return mix_packed(q, k, v, pass.packed());
    // One sequence after the other, each with the prefix that it continues.
    std::vector<mx::array> parts;
    for (const auto& it : pass.packed()->sequences) {
      const auto rows = [](const mx::array& x, int from, int n) {
        auto first = mx::Shape(4, 0), last = x.shape();
        first[2] = from;
        last[2] = from + n;
        return mx::slice(x, first, last);
      };
      const auto whole = [&](const mx::array& x) {
        const auto own = rows(x, it.row, it.length);
        return it.first == 0 ? own
                             : mx::concatenate(
                                   {rows(x, it.prefix_row, it.first), own}, 2);
      };
      parts.push_back(opened(rows(q, it.row, it.length), whole(k), whole(v)));
    }
    return mx::concatenate(std::move(parts), 2);
  }
  if (edited || config_.softcap > 0) return opened(q, k, v);
  // `this` outlives the closures: a trace keeps its model alive.
  pass.offer(id(scores_), [this, q, k] { return scores(q, k); });
  pass.offer(id(pattern_), [this, q, k] { return pattern_of(scores(q, k)); });
  return fused(q, k, v, scale_, config_.window);
}

mx::array Attention::mix_packed(
    const mx::array& q,
    const mx::array& k,
    const mx::array& v,
    const std::shared_ptr<const PackedBatch>& packed) const {
  // One shape at a time, through explicit scores: on CUDA the fused op makes a
  // plan of 50 ms for every new shape, and sweeps have many.
  const auto plain = [this, packed](const std::vector<mx::array>& in) {
    const auto rows_q = swap_pos_head(in[0]), rows_k = swap_pos_head(in[1]),
               rows_v = swap_pos_head(in[2]);
    std::vector<mx::array> parts;
    for (const auto& [it, batch] : stretches(*packed)) {
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
      const auto weights = pattern_of(scores(some_q, whole(rows_k)));
      const auto z = mx::reshape(
          mx::matmul(by_group(weights, config_.n_kv_heads), whole(rows_v)),
          some_q.shape());
      parts.push_back(mx::reshape(
          swap_pos_head(z), {1, -1, config_.n_heads, config_.d_head}));
    }
    return std::vector{
        parts.size() == 1 ? parts[0] : mx::concatenate(std::move(parts), 1)};
  };
  if (!vectorised(q, k, v) || config_.softcap > 0)
    return swap_pos_head(plain({q, k, v})[0]);
  return swap_pos_head(simd::fused(
      "attend_packed",
      {1, q.shape(2), q.shape(1), q.shape(3)},
      {q, k, v},
      plain,
      [packed, shape = shape_of(q, k, scale_, config_.window)](
          const std::vector<mx::array>& in, float* out) {
        simd::attend_packed(
            shape,
            *packed,
            heads_of(in[0]),
            heads_of(in[1]),
            heads_of(in[2]),
            out);
      }));
}

mx::array Attention::per_head(const mx::array& z) const {
  // W_O [d_model, head * d_head] as [head, d_head, d_model].
  const auto w_o = mx::transpose(
      mx::reshape(
          o_proj.weight, {config_.d_model, config_.n_heads, config_.d_head}),
      {1, 2, 0});
  return swap_pos_head(mx::matmul(swap_pos_head(z), w_o));
}

}  // namespace mlxterp::nn
