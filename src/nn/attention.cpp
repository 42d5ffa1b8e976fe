#include "mlxterp/nn/attention.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/fail.h"
#include "mlx/ops.h"
#include "nn/attend.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

// Rows of [batch, head, row, d] from one on.
mx::array rows_of(const mx::array& x, int from, int n) {
  auto first = mx::Shape(4, 0), last = x.shape();
  first[2] = from;
  last[2] = from + n;
  return mx::slice(x, first, last);
}

mx::array joined(std::vector<mx::array> parts) {
  return parts.size() == 1 ? parts[0] : mx::concatenate(std::move(parts), 2);
}

}  // namespace

Attention::Attention(const AttentionConfig& config)
    : Attention(config, /*with_q_proj=*/true) {
  add_projections();
  add_norms();
  add_steps();
}

Attention::Attention(const AttentionConfig& config, bool with_q_proj)
    : q_proj(
          with_q_proj ? std::make_optional<Linear>(
                            config.d_model,
                            config.n_heads * config.d_head,
                            config.qkv_bias)
                      : std::nullopt),
      o_proj(
          config.n_heads * (config.d_value ? config.d_value : config.d_head),
          config.d_model,
          config.out_bias),
      config_(config) {
  if (config_.scale <= 0)
    config_.scale = 1.0f / std::sqrt(static_cast<float>(config.d_head));
  if (config_.d_value == 0) config_.d_value = config.d_head;
  describe(
      {.width = config.d_model},
      {.width = config.d_model, .stage = Stage::after});
}

void Attention::add_steps() {
  const auto query = traits(Heads::query), kv = traits(Heads::kv);
  const auto offered = [](SiteTraits it) {
    it.offered = true;
    return it;
  };
  const auto of_values = [&](SiteTraits it) {
    it.width = config_.d_value;
    return it;
  };
  q_ = site("q", query);
  if (config_.own_kv) {
    k_ = site("k", kv);
    v_ = site("v", of_values(kv));
  }
  rot_q_ = site("rot_q", offered(query));
  if (config_.own_kv) rot_k_ = site("rot_k", offered(kv));
  add_mixing();
  if (config_.gate) {
    gate_ = site("gate", of_values(query));
    mix_ = site("mix", of_values(query));
  }
  z_ = site("z", of_values(query));
  auto result = offered(query);
  result.width = config_.d_model;
  result.stage = Stage::after;
  result_ = site("result", result);
  if (config_.q_scale) q_scale_ = site("q_scale", {.width = 1});
}

void Attention::add_projections() {
  const int kv = config_.n_kv_heads * config_.d_head;
  const auto made = [&](std::optional<Linear>& linear, int d_out) -> Linear& {
    return linear.emplace(config_.d_model, d_out, config_.qkv_bias);
  };
  add("q_proj", *q_proj);
  if (config_.own_kv) add("k_proj", made(k_proj, kv));
  if (config_.own_kv && !config_.k_eq_v) add("v_proj", made(v_proj, kv));
  if (config_.gate)
    add("gate_proj", made(gate_proj, config_.n_heads * config_.d_value));
  add("o_proj", o_proj, Stage::after);
}

// What lies between rotated q and k and z.
void Attention::add_mixing() {
  auto of_pairs = traits(Heads::query);
  of_pairs.layout = Layout::scores;
  of_pairs.width = 0;
  of_pairs.offered = true;
  if (!config_.alibi.slopes.empty())
    position_bias_ = site("position_bias", of_pairs);
  scores_ = site("scores", of_pairs);
  if (config_.sinks) {
    auto of_nothing = traits(Heads::query);
    of_nothing.width = 1;
    of_nothing.offered = true;
    sinks_ = site("sinks", of_nothing);
    sink_share_ = site("sink_share", of_nothing);
    add("sinks", sinks.emplace(mx::zeros({config_.n_heads})));
  }
  pattern_ = site("pattern", of_pairs);
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
  if (config_.qk_norm != QkNorm::none) {
    make(q_norm, Heads::query);
    add("q_norm", *q_norm);
  }
  if (!config_.own_kv) return;
  if (config_.qk_norm != QkNorm::none) {
    make(k_norm, Heads::kv);
    add("k_norm", *k_norm);
  }
  if (config_.v_norm)
    add("v_norm",
        v_norm.emplace(mx::Shape{d}, *config_.v_norm, traits(Heads::kv)));
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
    const int times =
        (config_.q_scale->first + position) / config_.q_scale->every;
    by.push_back(
        1.0f + config_.q_scale->beta * std::log1p(static_cast<float>(times)));
  }
  const auto rows = mx::astype(mx::array(by.data(), {1, length, 1}), x.dtype());
  return tap(pass, *q_scale_, mx::broadcast_to(rows, {batch, length, 1}));
}

mx::array Attention::by_heads(
    const Linear& project, const mx::array& x, int n, Pass& pass) const {
  return mx::reshape(
      project(x, pass), {x.shape(0), x.shape(1), n, config_.d_head});
}

mx::array Attention::clipped(mx::array y) const {
  const float most = config_.clip_qkv;
  if (most == 0) return y;
  return mx::clip(y, mx::array(-most, y.dtype()), mx::array(most, y.dtype()));
}

mx::array Attention::project_q(const mx::array& x, Pass& pass) const {
  return by_heads(*q_proj, x, config_.n_heads, pass);
}

Attention::KeysAndValues Attention::project_kv(
    const mx::array& x, Pass& pass) const {
  const int n = config_.n_kv_heads;
  const auto k = by_heads(*k_proj, x, n, pass);
  auto seen = tap_k(k, pass);
  return {std::move(seen), v_proj ? by_heads(*v_proj, x, n, pass) : k};
}

mx::array Attention::turned(const mx::array& x, Pass& pass) const {
  const auto& rope = config_.rope;
  if (rope.dims == 0) return x;
  const auto turn = [&](const mx::array& part) {
    return pass.packed() ? rope(part, *pass.packed())
                         : rope(part, pass.cache_offset());
  };
  if (config_.rope_from == 0) return turn(x);
  const auto parts = mx::split(x, mx::Shape{config_.rope_from}, -1);
  return mx::concatenate({parts[0], turn(parts[1])}, -1);
}

// The sites speak [batch, pos, head, d_head], the rotation works on [batch,
// head, pos, d_head]: turn back only for who looks.
mx::array Attention::rotated(
    const mx::array& y,
    const std::optional<Norm>& norm,
    const std::optional<mx::array>& by,
    Slot slot,
    Pass& pass) const {
  auto out = turned(swap_pos_head(y), pass);
  if (config_.norm_rotated)
    out = swap_pos_head(normed(norm, swap_pos_head(out), pass));
  if (by) out = mx::multiply(out, mx::expand_dims(*by, 1));
  if (pass.edits(id(slot)))
    return swap_pos_head(tap(pass, slot, swap_pos_head(out)));
  pass.offer(id(slot), [out] { return swap_pos_head(out); });
  return out;
}

namespace {

std::string name_of(const char* what, const AttentionConfig& config) {
  return fmt::format("layers.{}.attn.{}", config.kv_layer, what);
}

}  // namespace

const mx::array& Attention::shared_k(const Carried& carried) const {
  return find(carried, name_of("rot_k", config_));
}

const mx::array& Attention::shared_v(const Carried& carried) const {
  return find(carried, name_of("v", config_));
}

Attention::KeysAndValues Attention::keys_and_values(
    const mx::array& x, Pass& pass) const {
  if (!config_.own_kv)
    return {
        swap_pos_head(shared_k(pass.carried())),
        swap_pos_head(shared_v(pass.carried()))};
  auto [k, v] = project_kv(x, pass);
  k = clipped(config_.norm_rotated ? k : normed(k_norm, k, pass));
  v = tap(pass, v_, clipped(v));
  if (v_norm) v = (*v_norm)(v, pass);
  KeysAndValues all{
      rotated(k, k_norm, std::nullopt, rot_k_, pass), swap_pos_head(v)};
  if (pass.cache()) {
    const auto cached = pass.cache()->append(
        this, pass.cache_offset(), all.k, all.v, reach_of_window());
    all = {cached.k, cached.v};
  }
  if (config_.kv_layer >= 0) {
    auto& carried = pass.carried();
    carried.insert_or_assign(name_of("rot_k", config_), swap_pos_head(all.k));
    carried.insert_or_assign(name_of("v", config_), swap_pos_head(all.v));
  }
  return all;
}

mx::array Attention::forward(const mx::array& x, Pass& pass) const {
  const int batch = x.shape(0), length = x.shape(1), n = config_.n_heads;
  const int held = pass.cache_offset();
  if (held > 0 && !config_.rope.same_angles(held, held + length))
    fail(
        ErrorKind::usage,
        "[Attention] this model's RoPE scaling differs between lengths {} and "
        "{}, which the cache holds; start with an empty cache and give it all "
        "positions at once",
        held + length,
        held);
  auto q = tap(pass, q_, project_q(x, pass));
  q = clipped(config_.norm_rotated ? q : normed(q_norm, q, pass));
  std::optional<mx::array> by;
  if (q_scale_) by = query_scale(x, pass);
  const auto rot_q = rotated(q, q_norm, by, rot_q_, pass);
  const auto all = keys_and_values(x, pass);

  auto z = swap_pos_head(mix(rot_q, all.k, all.v, pass));
  if (gate_proj) {
    const auto gate = tap(pass, *gate_, by_heads(*gate_proj, x, n, pass));
    z = mx::multiply(tap(pass, *mix_, std::move(z)), mx::sigmoid(gate));
  }
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
  return weights_of(scores_of(config_, rot_q, rot_k), as_scores(sinks)).pattern;
}

mx::array Attention::mix(
    const mx::array& q,
    const mx::array& k,
    const mx::array& v,
    Pass& pass) const {
  const auto edits = [&](std::optional<Slot> slot) {
    return slot && pass.edits(id(*slot));
  };
  if (edits(position_bias_) || edits(scores_) || edits(sinks_) ||
      edits(sink_share_) || edits(pattern_))
    return opened(q, k, v, pass);
  if (pass.packed() && !pass.packed()->cached())
    return attend_packed(config_, sinks, q, k, v, pass.packed());
  if (pass.packed() && pass.packed()->joint) {
    const auto all = joint_sources(k, v, *pass.packed());
    return attend_joint(
        config_, sinks, q, all.k, all.v, hidden(*pass.packed(), all.k));
  }
  if (config_.softcap > 0) return opened(q, k, v, pass);
  if (pass.packed()) {
    const auto all = sources(k, v, pass);
    std::vector<mx::array> z;
    for (size_t i = 0; i < all.size(); ++i) {
      const auto& it = pass.packed()->sequences[i];
      z.push_back(attend(
          config_, sinks, rows_of(q, it.row, it.length), all[i].k, all[i].v));
    }
    return joined(std::move(z));
  }
  // `this` outlives the closures: a trace keeps its model alive.
  const auto scores = [this, q, k] { return scores_of(config_, q, k); };
  pass.offer(id(scores_), scores);
  pass.offer(id(pattern_), [this, q, k] { return pattern(q, k); });
  if (position_bias_)
    pass.offer(id(*position_bias_), [this, q, k] {
      return biases(q.shape(0), q.shape(2), k.shape(2));
    });
  if (sinks) {
    pass.offer(id(*sinks_), [this, q] { return sinks_of(q); });
    pass.offer(id(*sink_share_), [this, scores] {
      const auto weights = weights_of(scores(), as_scores(sinks));
      return swap_pos_head(*weights.sink_share);
    });
  }
  return attend(config_, sinks, q, k, v);
}

Attention::KeysAndValues Attention::joint_sources(
    const mx::array& k, const mx::array& v, const PackedBatch& packed) const {
  // [1, kv_head, sequence, d] to [sequence, kv_head, 1, d].
  const auto batch = [](const mx::array& x) {
    return mx::transpose(x, {2, 1, 0, 3});
  };
  auto all = packed.joint->append(
      this,
      packed.padding[0] + packed.sequences[0].first,
      batch(k),
      batch(v),
      reach_of_window());
  return {std::move(all.k), std::move(all.v)};
}

std::vector<Attention::KeysAndValues> Attention::sources(
    const mx::array& k, const mx::array& v, Pass& pass) const {
  if (!pass.packed()) return {{k, v}};
  std::vector<KeysAndValues> all;
  if (pass.packed()->joint) {
    const auto joint = joint_sources(k, v, *pass.packed());
    const auto gaps = hidden(*pass.packed(), joint.k);
    for (size_t i = 0; i < gaps.size(); ++i) {
      const auto own = [&](const mx::array& x) {
        const int row = static_cast<int>(i);
        return mx::slice(
            x,
            {row, 0, gaps[i], 0},
            {row + 1, x.shape(1), x.shape(2), x.shape(3)});
      };
      all.push_back({own(joint.k), own(joint.v)});
    }
    return all;
  }
  for (const auto& it : pass.packed()->sequences) {
    const auto with_prefix = [&](const mx::array& x) {
      auto own = rows_of(x, it.row, it.length);
      if (it.first == 0 || it.cache) return own;
      return mx::concatenate({rows_of(x, it.prefix_row, it.first), own}, 2);
    };
    all.push_back({with_prefix(k), with_prefix(v)});
    if (!it.cache) continue;
    auto cached = it.cache->append(
        this, it.first, all.back().k, all.back().v, reach_of_window());
    all.back() = {std::move(cached.k), std::move(cached.v)};
  }
  return all;
}

mx::array Attention::opened(
    const mx::array& q,
    const mx::array& k,
    const mx::array& v,
    Pass& pass) const {
  // One sequence after the other, each with the prefix that it continues.
  const PackedBatch::Sequence one{.length = q.shape(2)};
  const auto sequences =
      pass.packed() ? pass.packed()->sequences : std::vector{one};
  const auto own = [&](const mx::array& x, const auto& it) {
    return pass.packed() ? rows_of(x, it.row, it.length) : x;
  };
  const auto whole = sources(k, v, pass);

  std::optional<mx::array> nothing;  // its scores, [batch, head, row, 1]
  if (sinks) nothing = swap_pos_head(tap(pass, *sinks_, sinks_of(q)));
  std::vector<mx::array> scores, patterns, shares, z;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto& it = sequences[i];
    const auto some_q = own(q, it);
    const auto& some_k = whole[i].k;
    std::optional<mx::array> bias;
    if (position_bias_)
      bias =
          tap(pass,
              *position_bias_,
              biases(some_q.shape(0), some_q.shape(2), some_k.shape(2)));
    scores.push_back(
        tap(pass, scores_, scores_of(config_, some_q, some_k, bias)));
    const auto weights = weights_of(
        scores.back(),
        nothing ? std::optional(own(*nothing, it)) : std::nullopt);
    patterns.push_back(weights.pattern);
    if (sinks) shares.push_back(*weights.sink_share);
  }
  if (sinks) {
    const auto share = swap_pos_head(
        tap(pass, *sink_share_, swap_pos_head(joined(std::move(shares)))));
    if (pass.edits(id(*sink_share_)))
      for (size_t i = 0; i < sequences.size(); ++i)
        patterns[i] = mx::multiply(
            weights_of(scores[i], std::nullopt).pattern,
            mx::subtract(
                mx::array(1.0f, share.dtype()), own(share, sequences[i])));
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto& it = sequences[i];
    const auto pattern = tap(pass, pattern_, patterns[i]);
    auto shape = own(q, it).shape();
    shape.back() = config_.d_value;
    z.push_back(mx::reshape(
        mx::matmul(by_group(pattern, config_.n_kv_heads), whole[i].v), shape));
  }
  return joined(std::move(z));
}

mx::array Attention::biases(int batch, int dest, int src) const {
  return mx::broadcast_to(
      config_.alibi(dest, src), {batch, config_.n_heads, dest, src});
}

mx::array Attention::sinks_of(const mx::array& q) const {
  return mx::broadcast_to(
      mx::astype(mx::reshape(*sinks, {1, 1, -1, 1}), q.dtype()),
      {q.shape(0), q.shape(2), config_.n_heads, 1});
}

mx::array Attention::per_head(const mx::array& z) const {
  // W_O [d_model, head * d_value] as [head, d_value, d_model].
  const auto w_o = mx::transpose(
      mx::reshape(
          o_proj.weight.numbers(),
          {config_.d_model, config_.n_heads, config_.d_value}),
      {1, 2, 0});
  return swap_pos_head(mx::matmul(swap_pos_head(z), w_o));
}

}  // namespace mlxterp::nn
