// ReLU with L1, gated, and JumpReLU: the number of active features is not
// known beforehand, so all products are dense.

#include "mlx/ops.h"
#include "sae/train/losses.h"

namespace mx = mlx::core;

namespace mlxterp::sae_train {

namespace {

// What the dense recipes share.
struct Dense {
  const Problem& problem;
  mx::array x_in, h;  // h: x_in W_enc^T
  mx::array norms, variance, weight;
  mx::array of_row;  // 1 / rows

  explicit Dense(const Problem& it)
      : problem(it),
        x_in(it.x_in()),
        h(it.product(x_in, mx::transpose(it.p.at("W_enc")))),
        norms(it.norms()),
        variance(variance_of(it.y)),
        weight(error_weight(it, variance)),
        of_row(scalar(1.0 / it.rows())) {}

  const mx::array& p(const char* name) const { return problem.p.at(name); }

  mx::array error(const mx::array& acts) const {
    return mx::subtract(
        mx::add(problem.product(acts, p("W_dec")), problem.offset()),
        problem.y);
  }
  /** Of a weighted sum of squares. */
  mx::array slope(const mx::array& e) const {
    return mx::multiply(mx::multiply(scalar(2), weight), e);
  }
  mx::array back(const mx::array& G) const {
    return problem.product(G, mx::transpose(p("W_dec")));
  }
  /** Of sum_i c_i |W_dec,i|, by W_dec. */
  mx::array norm_slope(const mx::array& c) const {
    return problem.norm_slope(c);
  }
  Slopes begin(const mx::array& e) const {
    const auto squares = total(mx::square(e));
    return {
        .errors = squares,
        .variance = variance,
        .loss = mx::multiply(weight, squares),
        .sparsity = scalar(0),
        .aux = scalar(0),
        .fired = scalar(0),
        .l0 = scalar(0)};
  }
  void count(const mx::array& acts, Slopes& out) const {
    const auto active = as_float(mx::greater(acts, scalar(0)));
    out.fired = mx::sum(active, 0);
    out.l0 = mx::multiply(mx::sum(out.fired), of_row);
  }
};

Slopes relu_slopes(const Problem& problem) {
  const Dense it(problem);
  const auto acts = mx::maximum(mx::add(it.h, it.p("b_enc")), scalar(0));
  const auto e = it.error(acts);
  auto out = it.begin(e);
  it.count(acts, out);
  const auto lambda = mx::multiply(scalar(problem.sparsity), it.of_row);
  const auto sums = mx::sum(acts, 0);
  out.sparsity = mx::multiply(lambda, mx::sum(mx::multiply(sums, it.norms)));
  out.loss = mx::add(out.loss, out.sparsity);

  const auto G = it.slope(e);
  const auto dpre = mx::where(
      mx::greater(acts, scalar(0)),
      mx::add(it.back(G), mx::multiply(lambda, it.norms)),
      scalar(0));
  auto& to = out.gradients;
  to.insert_or_assign(
      "W_dec",
      mx::add(
          problem.product(mx::transpose(acts), G),
          it.norm_slope(mx::multiply(lambda, sums))));
  to.insert_or_assign("W_enc", problem.product(mx::transpose(dpre), it.x_in));
  to.insert_or_assign("b_enc", mx::sum(dpre, 0));
  add_bias_gradients(problem, G, to.at("b_enc"), to);
  return out;
}

Slopes gated_slopes(const Problem& problem) {
  const Dense it(problem);
  const auto stretch = mx::exp(it.p("r_mag"));
  const auto gate = mx::add(it.h, it.p("b_gate"));
  const auto size = mx::add(mx::multiply(it.h, stretch), it.p("b_mag"));
  const auto open = mx::greater(gate, scalar(0));
  const auto active = mx::logical_and(open, mx::greater(size, scalar(0)));
  const auto acts = mx::where(active, size, scalar(0));
  const auto through = mx::maximum(gate, scalar(0));
  const auto e = it.error(acts);
  const auto e_gate = it.error(through);
  auto out = it.begin(e);
  it.count(acts, out);
  const auto lambda = mx::multiply(scalar(problem.sparsity), it.of_row);
  const auto sums = mx::sum(through, 0);
  out.sparsity = mx::multiply(lambda, mx::sum(mx::multiply(sums, it.norms)));
  out.aux = mx::multiply(it.weight, total(mx::square(e_gate)));
  out.loss = mx::add(out.loss, mx::add(out.sparsity, out.aux));

  const auto G = it.slope(e), G_gate = it.slope(e_gate);
  const auto dsize = mx::where(active, it.back(G), scalar(0));
  const auto dgate = mx::where(
      open,
      mx::add(it.back(G_gate), mx::multiply(lambda, it.norms)),
      scalar(0));
  const auto dh = mx::add(mx::multiply(dsize, stretch), dgate);
  auto& to = out.gradients;
  to.insert_or_assign("b_mag", mx::sum(dsize, 0));
  to.insert_or_assign(
      "r_mag", mx::multiply(stretch, mx::sum(mx::multiply(dsize, it.h), 0)));
  to.insert_or_assign("b_gate", mx::sum(dgate, 0));
  to.insert_or_assign("W_enc", problem.product(mx::transpose(dh), it.x_in));
  to.insert_or_assign(
      "W_dec",
      mx::add(
          mx::add(
              problem.product(mx::transpose(acts), G),
              problem.product(mx::transpose(through), G_gate)),
          it.norm_slope(mx::multiply(lambda, sums))));
  add_bias_gradients(problem, mx::add(G, G_gate), mx::sum(dh, 0), to);
  return out;
}

// The penalty of JumpReLU and what it adds to gradients.
struct Penalty {
  mx::array loss;
  std::optional<mx::array> acts = {};   // [rows, features]
  std::optional<mx::array> edges = {};  // a factor of rect's mean by feature
  std::optional<mx::array> norms = {};  // [features]
};

Penalty penalty_of(
    const Dense& it, const mx::array& acts, const mx::array& l0) {
  const auto& o = it.problem.options;
  const auto lambda = scalar(it.problem.sparsity);
  if (o.penalty == SaePenalty::step)
    return {.loss = mx::multiply(lambda, l0), .edges = lambda};
  if (o.penalty == SaePenalty::quadratic) {
    const auto over = mx::subtract(l0, scalar(o.target_l0));
    return {
        .loss = mx::multiply(lambda, mx::square(over)),
        .edges = mx::multiply(mx::multiply(scalar(2), lambda), over)};
  }
  const auto share = mx::multiply(lambda, it.of_row);
  const auto c = scalar(o.tanh_scale);
  const auto t = mx::tanh(mx::multiply(mx::multiply(c, it.norms), acts));
  const auto inner = mx::multiply(
      mx::multiply(share, c), mx::subtract(scalar(1), mx::square(t)));
  return {
      .loss = mx::multiply(share, total(t)),
      .acts = mx::multiply(inner, it.norms),
      .norms = mx::sum(mx::multiply(inner, acts), 0)};
}

Slopes jump_slopes(const Problem& problem) {
  const Dense it(problem);
  const auto& o = problem.options;
  const auto& threshold = it.p("threshold");
  const auto pre = mx::add(it.h, it.p("b_enc"));
  const auto open = mx::greater(pre, threshold);
  const auto acts = mx::where(open, pre, scalar(0));
  const auto e = it.error(acts);
  auto out = it.begin(e);
  out.fired = mx::sum(as_float(open), 0);
  out.l0 = mx::multiply(mx::sum(out.fired), it.of_row);
  const auto penalty = penalty_of(it, acts, out.l0);
  out.sparsity = penalty.loss;

  const auto G = it.slope(e);
  auto dacts = it.back(G);
  if (penalty.acts) dacts = mx::add(dacts, *penalty.acts);
  const auto width = scalar(o.bandwidth);
  const auto near = as_float(mx::less(
      mx::abs(mx::divide(mx::subtract(pre, threshold), width)), scalar(0.5)));
  auto dthreshold = mx::negative(mx::multiply(
      mx::divide(threshold, width), mx::sum(mx::multiply(near, dacts), 0)));
  if (penalty.edges)
    dthreshold = mx::subtract(
        dthreshold,
        mx::multiply(
            mx::divide(mx::multiply(*penalty.edges, it.of_row), width),
            mx::sum(near, 0)));
  auto dpre = mx::where(open, dacts, scalar(0));
  auto dW_dec = problem.product(mx::transpose(acts), G);
  if (penalty.norms) dW_dec = mx::add(dW_dec, it.norm_slope(*penalty.norms));
  if (o.pre_act > 0 && !problem.dead.empty()) {
    std::vector<float> mask(static_cast<size_t>(problem.features()));
    for (const int f : problem.dead)
      mask[static_cast<size_t>(f)] = 1;
    const auto share = mx::multiply(
        mx::multiply(scalar(o.pre_act), it.of_row),
        mx::array(mask.data(), {problem.features()}, mx::float32));
    const auto below = mx::maximum(mx::subtract(threshold, pre), scalar(0));
    const auto under = as_float(mx::greater(below, scalar(0)));
    const auto sums = mx::multiply(share, mx::sum(below, 0));
    out.aux = mx::sum(mx::multiply(sums, it.norms));
    const auto each = mx::multiply(share, it.norms);
    dthreshold = mx::add(dthreshold, mx::multiply(each, mx::sum(under, 0)));
    dpre = mx::subtract(dpre, mx::multiply(each, under));
    dW_dec = mx::add(dW_dec, it.norm_slope(sums));
  }
  out.loss = mx::add(out.loss, mx::add(out.sparsity, out.aux));
  auto& to = out.gradients;
  to.insert_or_assign("threshold", dthreshold);
  to.insert_or_assign("W_dec", dW_dec);
  to.insert_or_assign("W_enc", problem.product(mx::transpose(dpre), it.x_in));
  to.insert_or_assign("b_enc", mx::sum(dpre, 0));
  add_bias_gradients(problem, G, to.at("b_enc"), to);
  return out;
}

}  // namespace

Slopes dense_slopes(const Problem& problem) {
  if (problem.options.recipe == SaeRecipe::gated) return gated_slopes(problem);
  return problem.options.recipe == SaeRecipe::jump_relu ? jump_slopes(problem)
                                                        : relu_slopes(problem);
}

}  // namespace mlxterp::sae_train
