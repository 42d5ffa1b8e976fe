// TopK, BatchTopK and Matryoshka: k values a row are known by their places, and
// decoded and differentiated by them.

#include <algorithm>
#include <chrono>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "sae/train/losses.h"

namespace mx = mlx::core;

namespace mlxterp::sae_train {

namespace {

// Seconds of a part alone: what it reads is evaluated before.
class Clock {
 public:
  explicit Clock(double& to) : to_(to) {}
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  ~Clock() {
    to_ += std::chrono::duration<double>(Now::now() - begin_).count();
  }

 private:
  using Now = std::chrono::steady_clock;
  double& to_;
  Now::time_point begin_ = Now::now();
};

void add(Tensors& to, const std::string& name, const mx::array& value) {
  const auto found = to.find(name);
  if (found == to.end())
    to.insert_or_assign(name, value);
  else
    found->second = mx::add(found->second, value);
}

// 1 where it counts: a ReLU's slope.
mx::array is_above(const mx::array& values) {
  return mx::astype(mx::greater(values, scalar(0)), mx::float32);
}

class SparseStep {
 public:
  explicit SparseStep(const Problem& problem)
      : it_(problem),
        engine_(problem.engine),
        x_in_(problem.rounded(problem.x_in())),
        W_enc_(problem.rounded(problem.p.at("W_enc"))),
        W_dec_(problem.rounded(problem.p.at("W_dec"))),
        pre_(mx::addmm(
            problem.rounded(problem.p.at("b_enc")),
            x_in_,
            mx::transpose(W_enc_))),
        norms_(problem.norms()),
        ranked_(pre_, ranked_by_norm() ? std::optional(norms_) : std::nullopt),
        variance_(variance_of(problem.y)),
        weight_(error_weight(problem, variance_)),
        bias_(mx::zeros({problem.p.at("b_dec").shape(0)}, mx::float32)),
        out_{
            .errors = scalar(0),
            .variance = variance_,
            .loss = scalar(0),
            .sparsity = scalar(0),
            .aux = scalar(0),
            .fired = scalar(0),
            .l0 = scalar(0)} {
    mx::eval(
        x_in_,
        W_enc_,
        W_dec_,
        engine_ == Engine::loops ? ranked_.rank : pre_,
        norms_,
        variance_);
  }

  Slopes run() {
    const auto acts = chosen();
    const auto e = reconstruct(acts);
    if (it_.options.aux != SaeAuxLoss::none && it_.options.aux_weight > 0 &&
        !it_.dead.empty())
      add_aux(e);
    add_bias_gradients(it_, G_, pre_sums(), out_.gradients);
    if (b_dec_too_) add(out_.gradients, "b_dec", bias_);
    return std::move(out_);
  }

 private:
  bool ranked_by_norm() const {
    return it_.options.rank_by_norm && !it_.options.unit_decoder;
  }

  // Pre-activations at these places, as exact as sums in float32 are.
  mx::array pre_at(const Sparse& at) const {
    return mx::add(
        dots(at, x_in_, W_enc_, engine_),
        mx::take(it_.p.at("b_enc"), at.cols, 0));
  }

  // The places of the largest, and pre-activations there.
  Sparse largest() const {
    const auto& o = it_.options;
    auto out =
        o.recipe == SaeRecipe::topk
            ? top_of_rows(ranked_, o.k, {}, engine_)
            : top_of_all(
                  ranked_, static_cast<int64_t>(o.k) * it_.rows(), engine_);
    if (o.bfloat16)
      out.values = pre_at(out);
    else if (o.recipe != SaeRecipe::topk && ranked_.by)
      out.values = mx::divide(out.values, mx::take(norms_, out.cols, 0));
    return out;
  }

  // Activations after the ReLU; those that are 0 may be among them.
  Sparse chosen() {
    const Clock clock(out_.choice);
    auto acts = largest();
    if (it_.options.recipe != SaeRecipe::topk && acts.size() > 0) {
      const auto ranks =
          ranked_.by ? mx::multiply(acts.values, mx::take(norms_, acts.cols, 0))
                     : acts.values;
      constexpr float most = 3e38f;
      const auto least = mx::min(
          mx::where(mx::greater(ranks, scalar(0)), ranks, mx::array(most)));
      out_.least =
          mx::where(mx::less(least, mx::array(most)), least, scalar(0));
    }
    acts.values = mx::maximum(acts.values, scalar(0));
    auto ones = acts;
    ones.values = is_above(acts.values);
    mx::eval(acts.rows, acts.cols, acts.values, ones.values);
    out_.fired = sums(ones, it_.features(), engine_);
    out_.l0 = mx::multiply(mx::sum(out_.fired), scalar(1.0 / it_.rows()));
    return acts;
  }

  std::vector<int> widths() const {
    return it_.options.recipe == SaeRecipe::matryoshka
               ? it_.options.widths
               : std::vector{it_.features()};
  }

  // Every width's error and its gradients; the last error comes back.
  mx::array reconstruct(const Sparse& acts) {
    const auto all = widths();
    const auto n = static_cast<double>(all.size());
    const auto share =
        scalar(it_.options.mean_over_widths ? 1.0 / (n * n) : 1.0);
    std::vector<Sparse> groups;
    std::vector<mx::array> slopes;
    auto recon = mx::broadcast_to(it_.offset(), it_.y.shape());
    auto e = recon;
    int begin = 0;
    for (const int end : all) {
      groups.push_back(
          all.size() == 1 ? acts : columns(acts, begin, end, engine_));
      recon = mx::add(recon, decoded(groups.back()));
      e = mx::subtract(recon, it_.y);
      out_.errors = total(mx::square(e));
      const auto weight = mx::multiply(share, weight_);
      out_.loss = mx::add(out_.loss, mx::multiply(weight, out_.errors));
      slopes.push_back(mx::multiply(mx::multiply(scalar(2), weight), e));
      begin = end;
    }
    // A feature is in every width from its own on.
    for (size_t i = slopes.size() - 1; i-- > 0;)
      slopes[i] = mx::add(slopes[i], slopes[i + 1]);
    G_ = slopes.front();
    for (size_t i = 0; i < groups.size(); ++i)
      backward(groups[i], slopes[i], is_above(groups[i].values));
    return e;
  }

  mx::array decoded(const Sparse& acts) {
    const Clock clock(out_.sparse);
    auto out = decode(acts, W_dec_, it_.rows(), engine_);
    out.eval();
    return out;
  }

  // Of what decodes `acts` to something of slope G. `gate`: of each value by
  // its pre-activation.
  void backward(
      const Sparse& acts, const mx::array& of, const mx::array& gate) {
    const auto G = it_.rounded(of);
    mx::eval(G, gate);
    const Clock clock(out_.sparse);
    auto pre = acts;
    pre.values = mx::multiply(dots(acts, G, W_dec_, engine_), gate);
    mx::eval(pre.values);
    const auto places = by_feature(acts, it_.features(), engine_);
    const auto inner = outer(pre, places, x_in_, engine_);
    const auto own = outer(acts, places, G, engine_);
    mx::eval(inner.rows, inner.values, own.rows);
    add(out_.gradients, "W_dec", own.rows);
    add(out_.gradients, "W_enc", inner.rows);
    add(out_.gradients, "b_enc", inner.values);
  }

  mx::array pre_sums() const { return out_.gradients.at("b_enc"); }

  // Dead features predict the error.
  void add_aux(const mx::array& e) {
    const auto& o = it_.options;
    const int k = std::min(o.aux_k, static_cast<int>(it_.dead.size()));
    auto z = [&] {
      const Clock clock(out_.choice);
      auto out = top_of_rows(ranked_, k, it_.dead, engine_);
      if (o.bfloat16) out.values = pre_at(out);
      return out;
    }();
    const bool raw = o.aux == SaeAuxLoss::saelens;
    const auto gate = raw ? mx::ones_like(z.values) : is_above(z.values);
    if (!raw) z.values = mx::maximum(z.values, scalar(0));
    mx::eval(z.rows, z.cols, z.values);
    // e is recon - y: the error that z is to predict is -e.
    const auto rest = mx::add(decoded(z), e);
    auto weight = scalar(o.aux_weight);
    if (o.aux == SaeAuxLoss::saelens || o.aux == SaeAuxLoss::sparsify)
      weight = scalar(
          o.aux_weight *
          std::min(1.0, static_cast<double>(it_.dead.size()) / o.aux_k));
    if (o.aux == SaeAuxLoss::saelens)
      weight = mx::multiply(weight, scalar(1.0 / it_.rows()));
    else {
      const auto by =
          o.aux == SaeAuxLoss::sparsify ? variance_ : variance_of(e);
      weight = mx::where(
          mx::greater(by, scalar(0)), mx::divide(weight, by), scalar(0));
    }
    out_.aux = mx::multiply(weight, total(mx::square(rest)));
    out_.loss = mx::add(out_.loss, out_.aux);
    const auto G = mx::multiply(mx::multiply(scalar(2), weight), rest);
    backward(z, G, gate);
    if (o.aux == SaeAuxLoss::openai) {
      b_dec_too_ = true;
      bias_ = mx::sum(G, 0);
    }
  }

  const Problem& it_;
  Engine engine_;
  mx::array x_in_, W_enc_, W_dec_, pre_, norms_;
  Ranked ranked_;
  mx::array variance_, weight_, bias_;
  mx::array G_ = mx::array(0.0f);
  bool b_dec_too_ = false;
  Slopes out_;
};

}  // namespace

Slopes sparse_slopes(const Problem& problem) {
  return SparseStep(problem).run();
}

}  // namespace mlxterp::sae_train
