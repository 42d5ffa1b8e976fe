// The loss of a transcoder across layers and its gradients. All targets of a
// source are one product: W_dec_s as [features, targets * d_out].

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "sae/train/losses.h"

namespace mx = mlx::core;

namespace mlxterp::sae_train {

namespace {

std::string at(const char* name, int layer) {
  return fmt::format("{}_{}", name, layer);
}

// [rows, d] of [rows, layers, d].
mx::array layer_of(const mx::array& x, int layer) {
  const int rows = x.shape(0), d = x.shape(2);
  return mx::reshape(
      mx::slice(x, {0, layer, 0}, {rows, layer + 1, d}), {rows, d});
}

// What one layer's features do, and what comes back to them.
struct Source {
  mx::array x, pre;
  mx::array W_dec;  // [features, targets * d_out]
  mx::array norms;
  mx::array acts = mx::array(0.0f);   // dense,
  std::optional<Sparse> places = {};  // or by index
};

class CltStep {
 public:
  explicit CltStep(const CltProblem& problem)
      : it_(problem),
        of_row_(scalar(1.0 / problem.rows())),
        out_{
            .errors = scalar(0),
            .variance = scalar(0),
            .loss = scalar(0),
            .sparsity = scalar(0),
            .aux = scalar(0),
            .fired = scalar(0),
            .l0 = scalar(0)} {
    for (int l = 0; l < it_.layers(); ++l) {
      auto x = mx::contiguous(layer_of(it_.x, l));
      auto W_dec = mx::reshape(it_.of("W_dec", l), {it_.features(), -1});
      auto norms = mx::maximum(
          mx::sqrt(mx::sum(mx::square(W_dec), 1)), mx::array(1e-8f));
      auto pre =
          mx::addmm(it_.of("b_enc", l), x, mx::transpose(it_.of("W_enc", l)));
      sources_.push_back({x, pre, W_dec, norms});
    }
  }

  Slopes run() {
    const bool by_k = it_.options.recipe == SaeRecipe::batch_topk;
    if (by_k)
      choose();
    else
      open();
    const auto e = error();
    const auto G = mx::multiply(scalar(2.0 / it_.rows()), e);
    for (int l = 0; l < it_.layers(); ++l) {
      out_.gradients.insert_or_assign(
          at("b_dec", l), mx::sum(layer_of(G, l), 0));
      if (sources_[static_cast<size_t>(l)].places)
        back_by_index(l, slopes_from(G, l));
      else
        back(l, slopes_from(G, l));
    }
    if (by_k && it_.options.aux != SaeAuxLoss::none &&
        it_.options.aux_weight > 0 && !it_.dead.empty())
      add_aux(e);
    out_.loss = mx::add(out_.loss, mx::add(out_.sparsity, out_.aux));
    return std::move(out_);
  }

 private:
  using Now = std::chrono::steady_clock;

  mx::array threshold(int layer) const {
    return mx::exp(it_.of("log_threshold", layer));
  }

  void count(const std::vector<mx::array>& fired) {
    out_.fired = mx::concatenate(fired, 0);
    out_.l0 = mx::multiply(mx::sum(out_.fired), of_row_);
  }

  void open() {
    std::vector<mx::array> fired;
    for (int l = 0; l < it_.layers(); ++l) {
      auto& it = sources_[static_cast<size_t>(l)];
      const auto above = mx::greater(it.pre, threshold(l));
      it.acts = mx::where(above, it.pre, scalar(0));
      fired.push_back(mx::sum(as_float(above), 0));
    }
    count(fired);
  }

  // The k x rows largest of all layers together.
  void choose() {
    std::vector<mx::array> ranks, norms, fired;
    for (const auto& it : sources_) {
      ranks.push_back(mx::multiply(it.pre, it.norms));
      norms.push_back(it.norms);
    }
    const auto rank = rank_ = mx::concatenate(ranks, 1);
    norms_ = mx::concatenate(norms, 0);
    const auto n = static_cast<int64_t>(it_.options.k) * it_.rows();
    if (it_.engine == Engine::loops) mx::eval(rank);
    const auto begin = Now::now();
    const auto all = top_of_all(Ranked(rank), n, it_.engine);
    out_.choice += std::chrono::duration<double>(Now::now() - begin).count();
    constexpr float most = 3e38f;
    auto least = scalar(0);
    if (all.size() > 0) {
      const auto above = mx::greater(all.values, scalar(0));
      least = mx::min(mx::where(above, all.values, mx::array(most)));
      least = mx::where(mx::less(least, mx::array(most)), least, scalar(0));
    }
    out_.least = least;
    if (it_.engine == Engine::loops) {
      by_places(all);
      return;
    }
    for (auto& it : sources_) {
      const auto own = mx::multiply(it.pre, it.norms);
      const auto above = mx::logical_and(
          mx::greater_equal(own, least), mx::greater(own, scalar(0)));
      it.acts = mx::where(above, it.pre, scalar(0));
      fired.push_back(mx::sum(as_float(above), 0));
    }
    count(fired);
  }

  void by_places(const Sparse& all) {
    const int features = it_.features();
    std::vector<mx::array> fired;
    for (int l = 0; l < it_.layers(); ++l) {
      const int begin = l * features;
      auto own = columns(all, begin, begin + features, it_.engine);
      own.values = mx::divide(own.values, mx::take(norms_, own.cols, 0));
      own.cols = mx::subtract(own.cols, mx::array(begin));
      auto ones = own;
      ones.values = mx::ones_like(own.values);
      mx::eval(own.values, own.cols, ones.values);
      fired.push_back(sums(ones, features, it_.engine));
      sources_[static_cast<size_t>(l)].places = own;
    }
    count(fired);
  }

  // [rows, layers, d_out], of all sources.
  mx::array error() {
    const int layers = it_.layers(), rows = it_.rows(), d = it_.d_out();
    std::vector<mx::array> recon;
    for (int l = 0; l < layers; ++l)
      recon.push_back(it_.of("b_dec", l));
    for (int l = 0; l < layers; ++l) {
      const auto written = mx::reshape(
          decoded(sources_[static_cast<size_t>(l)]), {rows, layers - l, d});
      for (int t = l; t < layers; ++t) {
        auto& to = recon[static_cast<size_t>(t)];
        to = mx::add(to, layer_of(written, t - l));
      }
    }
    auto e = mx::subtract(mx::stack(recon, 1), it_.y);
    const auto flat = mx::reshape(e, {rows, -1});
    out_.errors = total(mx::square(flat));
    out_.variance = variance_of(mx::reshape(it_.y, {rows, -1}));
    out_.loss = mx::multiply(of_row_, out_.errors);
    return e;
  }

  mx::array decoded(const Source& it) {
    if (!it.places) return mx::matmul(it.acts, it.W_dec);
    mx::eval(it.W_dec);
    const auto begin = Now::now();
    auto out = decode(*it.places, it.W_dec, it_.rows(), it_.engine);
    out_.sparse += std::chrono::duration<double>(Now::now() - begin).count();
    return out;
  }

  // Of what a layer writes: [rows, targets * d_out].
  mx::array slopes_from(const mx::array& G, int layer) const {
    return mx::reshape(
        mx::slice(G, {0, layer, 0}, {it_.rows(), it_.layers(), it_.d_out()}),
        {it_.rows(), -1});
  }

  void keep(int l, const char* name, const mx::array& value) {
    out_.gradients.insert_or_assign(
        at(name, l), mx::reshape(value, it_.of(name, l).shape()));
  }

  void back(int l, const mx::array& G) {
    const auto& it = sources_[static_cast<size_t>(l)];
    const auto above = mx::greater(it.acts, scalar(0));
    auto dacts = mx::matmul(G, mx::transpose(it.W_dec));
    auto dW_dec = mx::matmul(mx::transpose(it.acts), G);
    if (it_.options.recipe == SaeRecipe::batch_topk) {
      const auto dpre = mx::where(above, dacts, scalar(0));
      finish(l, dpre, dW_dec);
      return;
    }
    const auto& o = it_.options;
    const auto c = scalar(o.tanh_scale);
    const auto share = mx::multiply(scalar(it_.sparsity), of_row_);
    const auto t = mx::tanh(mx::multiply(mx::multiply(c, it.norms), it.acts));
    out_.sparsity = mx::add(out_.sparsity, mx::multiply(share, total(t)));
    const auto inner = mx::multiply(
        mx::multiply(share, c), mx::subtract(scalar(1), mx::square(t)));
    dacts = mx::add(dacts, mx::multiply(inner, it.norms));
    auto dnorms = mx::sum(mx::multiply(inner, it.acts), 0);

    const auto limit = threshold(l);
    const auto width = scalar(o.bandwidth);
    const auto near = as_float(mx::less(
        mx::abs(mx::divide(mx::subtract(it.pre, limit), width)), scalar(0.5)));
    auto dlimit = mx::negative(mx::multiply(
        mx::divide(limit, width), mx::sum(mx::multiply(near, dacts), 0)));
    auto dpre = mx::where(above, dacts, scalar(0));
    if (o.pre_act > 0) {
      const auto below = mx::maximum(mx::subtract(limit, it.pre), scalar(0));
      const auto under = as_float(mx::greater(below, scalar(0)));
      const auto weight = mx::multiply(scalar(o.pre_act), of_row_);
      const auto sums = mx::multiply(weight, mx::sum(below, 0));
      out_.aux = mx::add(out_.aux, mx::sum(mx::multiply(sums, it.norms)));
      const auto each = mx::multiply(weight, it.norms);
      dlimit = mx::add(dlimit, mx::multiply(each, mx::sum(under, 0)));
      dpre = mx::subtract(dpre, mx::multiply(each, under));
      dnorms = mx::add(dnorms, sums);
    }
    keep(l, "log_threshold", mx::multiply(limit, dlimit));
    dW_dec = mx::add(
        dW_dec,
        mx::multiply(
            mx::expand_dims(mx::divide(dnorms, it.norms), 1), it.W_dec));
    finish(l, dpre, dW_dec);
  }

  void finish(int l, const mx::array& dpre, const mx::array& dW_dec) {
    const auto& it = sources_[static_cast<size_t>(l)];
    keep(l, "W_dec", dW_dec);
    keep(l, "W_enc", mx::matmul(mx::transpose(dpre), it.x));
    keep(l, "b_enc", mx::sum(dpre, 0));
  }

  void back_by_index(int l, mx::array G) {
    const auto& it = sources_[static_cast<size_t>(l)];
    const int features = it_.features();
    G = mx::contiguous(G);
    mx::eval(G, it.x);
    const auto begin = Now::now();
    auto pre = *it.places;
    pre.values = dots(*it.places, G, it.W_dec, it_.engine);
    mx::eval(pre.values);
    const auto order = by_feature(pre, features, it_.engine);
    const auto inner = outer(pre, order, it.x, it_.engine);
    keep(l, "W_dec", outer(*it.places, order, G, it_.engine).rows);
    keep(l, "W_enc", inner.rows);
    keep(l, "b_enc", inner.values);
    out_.sparse += std::chrono::duration<double>(Now::now() - begin).count();
  }

  // Dead features of all layers together predict the error (SAELens' loss):
  // the aux_k of each row that are closest to firing, without a ReLU.
  void add_aux(const mx::array& e) {
    const auto& o = it_.options;
    const int layers = it_.layers(), rows = it_.rows(), d = it_.d_out();
    const int features = it_.features();
    const auto dead = static_cast<int>(it_.dead.size());
    if (it_.engine == Engine::loops) mx::eval(rank_);
    auto z = top_of_rows(
        Ranked(rank_), std::min(o.aux_k, dead), it_.dead, it_.engine);
    z.values = mx::divide(z.values, mx::take(norms_, z.cols, 0));
    std::vector<Sparse> own;
    std::vector<mx::array> rest;
    for (int l = 0; l < layers; ++l)
      rest.push_back(layer_of(e, l));
    for (int l = 0; l < layers; ++l) {
      const int begin = l * features;
      if (it_.engine == Engine::loops) mx::eval(z.values);
      auto part = columns(z, begin, begin + features, it_.engine);
      part.cols = mx::clip(
          mx::subtract(part.cols, mx::array(begin)),
          mx::array(0),
          mx::array(features - 1));
      const auto& W = sources_[static_cast<size_t>(l)].W_dec;
      if (it_.engine == Engine::loops) mx::eval(part.cols, part.values, W);
      own.push_back(part);
      const auto written =
          mx::reshape(decode(part, W, rows, it_.engine), {rows, layers - l, d});
      for (int t = l; t < layers; ++t) {
        auto& to = rest[static_cast<size_t>(t)];
        to = mx::add(to, layer_of(written, t - l));
      }
    }
    const auto all = mx::stack(rest, 1);
    const auto weight = mx::multiply(
        scalar(o.aux_weight * std::min(1.0, 1.0 * dead / o.aux_k)), of_row_);
    out_.aux =
        mx::multiply(weight, total(mx::square(mx::reshape(all, {rows, -1}))));
    const auto G = mx::multiply(mx::multiply(scalar(2), weight), all);
    for (int l = 0; l < layers; ++l) {
      const auto& it = sources_[static_cast<size_t>(l)];
      const auto& part = own[static_cast<size_t>(l)];
      const auto slopes = mx::contiguous(slopes_from(G, l));
      if (it_.engine == Engine::loops) mx::eval(slopes, it.x);
      auto pre = part;
      pre.values = mx::where(
          mx::not_equal(part.values, scalar(0)),
          dots(part, slopes, it.W_dec, it_.engine),
          scalar(0));
      if (it_.engine == Engine::loops) mx::eval(pre.values);
      const auto order = by_feature(part, features, it_.engine);
      const auto inner = outer(pre, order, it.x, it_.engine);
      more(l, "W_dec", outer(part, order, slopes, it_.engine).rows);
      more(l, "W_enc", inner.rows);
      more(l, "b_enc", inner.values);
    }
  }

  void more(int l, const char* name, const mx::array& value) {
    auto& to = out_.gradients.at(at(name, l));
    to = mx::add(to, mx::reshape(value, to.shape()));
  }

  const CltProblem& it_;
  std::vector<Source> sources_;
  mx::array rank_ = mx::array(0.0f), norms_ = mx::array(0.0f);
  mx::array of_row_;
  Slopes out_;
};

}  // namespace

const mx::array& CltProblem::of(const char* name, int layer) const {
  return p.at(at(name, layer));
}

Slopes slopes_of(const CltProblem& problem) {
  return CltStep(problem).run();
}

}  // namespace mlxterp::sae_train
