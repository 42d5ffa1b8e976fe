#include "analysis/linear/plain_layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <typeinfo>
#include <utility>

#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Numbers of scores times values of a prompt, of all heads.
constexpr int64_t most_kept = int64_t{1} << 28;

mx::array wide(const mx::array& x) {
  return mx::astype(x, mx::float32);
}

mx::array part(const mx::array& x, int axis, int from, int to) {
  if (axis < 0) axis += static_cast<int>(x.ndim());
  auto first = mx::Shape(x.ndim(), 0), last = x.shape();
  first[static_cast<size_t>(axis)] = from;
  last[static_cast<size_t>(axis)] = to;
  return mx::slice(x, first, last);
}

// Keeps every value that passes or is offered.
class Keeper final : public Observer {
 public:
  mx::array at(SiteId site, mx::array value) override {
    kept_.insert_or_assign(site, value);
    return value;
  }
  bool edits(SiteId) const override { return false; }
  void offer(SiteId site, std::function<mx::array()> make) override {
    offered_.insert_or_assign(site, std::move(make));
  }
  mx::array operator[](SiteId site) const {
    const auto found = kept_.find(site);
    return found != kept_.end() ? found->second : offered_.at(site)();
  }

 private:
  std::map<SiteId, mx::array> kept_;
  std::map<SiteId, std::function<mx::array()>> offered_;
};

mx::array gain_of(const nn::Norm& norm, const nn::NormConfig& config) {
  const auto weight = wide(norm.weight);
  return config.plus_one ? mx::add(weight, mx::array(1.0f)) : weight;
}

// Of x [..., d].
NormSlope slope_of(
    const nn::Norm& norm, const nn::NormConfig& config, const mx::array& x) {
  const bool centred = config.kind == nn::NormConfig::Kind::layer;
  auto in = wide(x);
  if (centred) in = mx::subtract(in, mx::mean(in, -1, true));
  const auto inverse = mx::rsqrt(
      mx::add(mx::mean(mx::square(in), -1, true), mx::array(config.eps)));
  return {
      .gain = gain_of(norm, config),
      .normalized = mx::multiply(in, inverse),
      .inverse = inverse,
      .centred = centred};
}

bool vanilla(const nn::Attention& attention) {
  using QkNorm = nn::AttentionConfig::QkNorm;
  const auto& config = attention.config();
  return config.own_kv && config.kv_layer < 0 && !config.gate &&
         !config.k_eq_v && !config.v_norm && config.clip_qkv == 0 &&
         config.rope_from == 0 && config.qk_norm != QkNorm::together &&
         (config.softcap == 0 || config.alibi.slopes.empty());
}

}  // namespace

bool PlainLayer::knows(
    const InterpretableModel& model, int number, int from, int to) {
  const auto& decoder = model.decoder();
  const auto& layer = *decoder.layers[static_cast<size_t>(number)];
  const auto& mixer = *layer.mixer;
  if (model.overlay() || typeid(mixer) != typeid(nn::Attention)) return false;
  const auto& attention = *layer.attention();
  const auto& config = attention.config();
  const auto kept = static_cast<int64_t>(config.n_heads) * (to - from) * to *
                    std::max(config.d_head, config.d_value);
  return kept <= most_kept && vanilla(attention) && layer.mlp && !layer.moe &&
         !layer.ple;
}

PlainLayer::How PlainLayer::best(mx::Dtype stream) {
  const bool cpu = mx::default_device() == mx::Device::cpu;
  return {.numbers = cpu ? mx::float32 : stream, .in_place = !cpu};
}

PlainLayer::PlainLayer(
    const InterpretableModel& model,
    int number,
    const mx::array& x,
    int from,
    int to,
    How how)
    : how_(how), from_(from), to_(to) {
  const auto& decoder = model.decoder();
  const auto& config = decoder.config();
  const auto& layer = *decoder.layers[static_cast<size_t>(number)];
  const auto& attention = *layer.attention();
  const auto& own = attention.config();
  Keeper kept;
  Stepper stepper(model, &kept, {.lengths = {x.shape(1)}});
  static_cast<void>(stepper.layer(number, x));

  parallel_ = config.parallel;
  written_ = config.residual_scale;
  if (layer.layer_scalar) whole_ = wide(*layer.layer_scalar);
  const auto counted = [&](const mx::array& value) {
    return mx::squeeze(part(value, 1, from, to), 0);
  };
  const auto slope = [&](const std::optional<nn::Norm>& norm) {
    return norm ? std::optional(slope_of(
                      *norm, config.norm, counted(kept[norm->input_site()])))
                : std::nullopt;
  };
  ln1_ = slope(layer.ln1);
  ln1_post_ = slope(layer.ln1_post);
  ln2_ = slope(layer.ln2);
  // One norm for both, of one value.
  if (parallel_ && !layer.ln2) ln2_ = ln1_;

  // ---- MLP ----
  const auto& mlp = *layer.mlp;
  const auto pre = wide(counted(
      kept[(mlp.gate_proj ? *mlp.gate_proj : mlp.up_proj).output_site()]));
  const auto act = [&](const std::vector<mx::array>& in) {
    Pass plain;
    return std::vector{
        mlp.act_fn ? (*mlp.act_fn)(in[0], plain)
                   : nn::activate(config.activation, in[0])};
  };
  const auto [value, derivative] = mx::vjp(act, {pre}, {mx::ones_like(pre)});
  const auto by_gain = [](const mx::array& w,
                          const std::optional<NormSlope>& norm) {
    const auto numbers = wide(w);
    return norm ? mx::multiply(numbers, norm->gain) : numbers;
  };
  const auto over_scale = [](const mx::array& by,
                             const std::optional<NormSlope>& norm) {
    return norm ? mx::multiply(by, norm->inverse) : by;
  };
  const mx::array written(written_);
  const auto up = by_gain(mlp.up_proj.weight.numbers(), ln2_);
  const auto slope_up = mlp.gate_proj ? value[0] : derivative[0];
  mlp_ =
      Mlp{.down = mx::multiply(wide(mlp.down_proj.weight.numbers()), written),
          .up = up,
          .by_up = over_scale(slope_up, ln2_),
          .gate = {},
          .by_gate = {},
          .post = slope(layer.ln2_post)};
  if (mlp.gate_proj) {
    mlp_->gate = by_gain(mlp.gate_proj->weight.numbers(), ln2_);
    mlp_->by_gate = over_scale(
        mx::multiply(
            derivative[0], wide(counted(kept[mlp.up_proj.output_site()]))),
        ln2_);
  }

  // ---- attention ----
  const int kv = own.n_kv_heads, group = own.n_heads / kv, n = to - from;
  const int d = own.d_head, d_value = own.d_value;
  const auto by_head = [&](const mx::array& value_of) {  // [head, pos, d]
    return mx::squeeze(mx::swapaxes(part(wide(value_of), 1, 0, to), 1, 2), 0);
  };
  const auto rot_q = part(by_head(kept[attention.rot_q_site()]), 1, from, to);
  const auto rot_k = by_head(kept[attention.rot_k_site()]);
  const auto v = by_head(kept[attention.values_site()]);
  const auto pattern = part(
      part(mx::squeeze(wide(kept[attention.pattern_site()]), 0), 1, from, to),
      2,
      0,
      to);
  const auto z = part(by_head(kept[attention.z_site()]), 1, from, to);
  auto behind_cap = pattern;
  if (own.softcap > 0) {
    const auto scores = part(
        part(mx::squeeze(wide(kept[attention.scores_site()]), 0), 1, from, to),
        2,
        0,
        to);
    const auto share = mx::divide(scores, mx::array(own.softcap));
    behind_cap = mx::where(
        mx::greater(pattern, mx::array(0.0f)),
        mx::multiply(pattern, mx::subtract(mx::array(1.0f), mx::square(share))),
        mx::array(0.0f));
  }
  // Jacobians of the way from a projection to what meets the other side, of
  // each head and position [head, pos, d_head, d_head]: norm, rotation, scale;
  // without a norm one for all heads.
  const auto turn =
      [&](const std::optional<nn::Norm>& norm, int heads, bool scaled) {
        const auto& rope = own.rope;
        const auto turned = [&](const std::vector<mx::array>& in) {
          return std::vector{rope.dims == 0 ? in[0] : rope(in[0], 0)};
        };
        const int length = x.shape(1);
        // [d_head, head, pos, d_head]
        // Written out: of a view MLX's rotation on CUDA reads other numbers.
        auto rows = mx::contiguous(mx::broadcast_to(
            mx::reshape(mx::eye(d), {d, 1, 1, d}),
            {d, norm ? heads : 1, length, d}));
        if (scaled) {
          const auto by = wide(kept[model.sites().find(
              fmt::format("layers.{}.attn.q_scale", number))]);  // [1, pos, 1]
          rows = mx::multiply(rows, mx::expand_dims(by, 1));
        }
        const auto unrotated = [&] {
          rows = mx::vjp(turned, {mx::zeros_like(rows)}, {rows}).second[0];
        };
        const auto unnormed = [&](const mx::array& in) {  // [head, pos, d_head]
          auto it = slope_of(*norm, config.qk_norm_config, in);
          if (it.gain.ndim() == 2) it.gain = mx::expand_dims(it.gain, 1);
          const auto t = mx::multiply(rows, it.gain);
          auto out = mx::subtract(
              t,
              mx::multiply(
                  it.normalized,
                  mx::mean(mx::multiply(t, it.normalized), -1, true)));
          if (it.centred) out = mx::subtract(out, mx::mean(t, -1, true));
          rows = mx::multiply(out, it.inverse);
        };
        const auto heads_first = [&](const mx::array& value_of) {
          return mx::squeeze(mx::swapaxes(wide(value_of), 1, 2), 0);
        };
        const auto in = [&] { return heads_first(kept[norm->input_site()]); };
        if (norm && own.norm_rotated) unnormed(in());
        unrotated();
        if (norm && !own.norm_rotated) unnormed(in());
        return part(mx::transpose(rows, {1, 2, 0, 3}), 1, from, to);
      };
  const auto turn_q =
      turn(attention.q_norm, own.n_heads, own.q_scale.has_value());
  const mx::array scale(own.scale);
  const auto grouped = [&](const mx::array& it) {
    auto shape = it.shape();
    shape[0] = group;
    shape.insert(shape.begin(), kv);
    return mx::reshape(it, shape);
  };
  // [kv_head, 1, 1, source, d_head] by [kv_head, group, pos, d_head, d_head]
  auto keys = mx::matmul(
      mx::reshape(mx::multiply(rot_k, scale), {kv, 1, 1, to, d}),
      attention.q_norm ? grouped(turn_q)
                       : mx::reshape(turn_q, {1, 1, n, d, d}));
  auto late = mx::swapaxes(
      mx::reshape(part(grouped(pattern), -1, from, to), {kv, group * n, n}),
      1,
      2);
  auto turn_k = turn(attention.k_norm, kv, false);
  if (ln1_) {
    const auto by = ln1_->inverse;  // [pos, 1]
    keys = mx::multiply(keys, mx::reshape(by, {n, 1, 1}));
    late = mx::multiply(late, mx::reshape(by, {n, 1}));
    turn_k = mx::multiply(turn_k, mx::reshape(by, {n, 1, 1}));
  }
  // The softmax's derivative is one matrix for each head and position: from z
  // by the values, less what all sources get, times the pattern.
  const auto to_scores = mx::multiply(
      mx::subtract(
          mx::reshape(mx::swapaxes(v, 1, 2), {kv, 1, 1, d_value, to}),
          mx::expand_dims(grouped(z), -1)),
      mx::expand_dims(grouped(behind_cap), 3));
  attention_ = Attention{
      .w_o = mx::multiply(wide(attention.o_proj.weight.numbers()), written),
      .w_in = mx::concatenate(
          {by_gain(attention.q_proj->weight.numbers(), ln1_),
           by_gain(attention.k_proj->weight.numbers(), ln1_),
           by_gain(attention.v_proj->weight.numbers(), ln1_)},
          0),
      .late = mx::contiguous(late),
      .to_scores = to_scores,
      .to_q = mx::matmul(to_scores, keys),
      .queries =
          mx::reshape(mx::multiply(grouped(rot_q), scale), {kv, group * n, d}),
      .turn = turn_k,
      .kv_heads = kv,
      .group = group,
      .d_head = d,
      .d_value = d_value};
  auto& a = *attention_;
  std::vector<mx::array*> all = {&mlp_->down, &mlp_->up, &mlp_->by_up};
  if (mlp_->gate) {
    all.push_back(&*mlp_->gate);
    all.push_back(&*mlp_->by_gate);
  }
  all.insert(
      all.end(),
      {&a.w_o, &a.w_in, &a.late, &a.to_scores, &a.to_q, &a.queries, &a.turn});
  std::vector<mx::array> made;
  for (auto* it : all) {
    // The MLP's apart, so that what both are made of is not there together.
    if (it == &a.w_o) mx::eval(std::exchange(made, {}));
    *it = mx::contiguous(mx::astype(*it, how.numbers));
    made.push_back(*it);
  }
  for (const auto* it : {&ln1_, &ln1_post_, &ln2_, &mlp_->post})
    if (*it) {
      made.push_back((*it)->normalized);
      made.push_back((*it)->inverse);
    }
  mx::eval(std::move(made));
}

}  // namespace mlxterp
