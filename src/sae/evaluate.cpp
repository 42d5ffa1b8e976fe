#include "mlxterp/sae/evaluate.h"

#include <cmath>
#include <limits>

#include "analysis/any_model.h"
#include "analysis/store/windows.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double bin_width = 0.5;  // of log10 densities

double ratio(double a, double b) {
  return b == 0 ? nan : a / b;
}

// Sums over positions, in float64, whatever the text's length.
class Sums {
 public:
  explicit Sums(const Sae& sae)
      : mean_(static_cast<size_t>(sae.d_out())),
        active_(static_cast<size_t>(sae.d_sae())) {}

  // Rows [n, d_out] and [n, d_sae], float32. Evaluates.
  void add_rows(
      const mx::array& target, const mx::array& recon, const mx::array& acts) {
    const auto row = [](const mx::array& x) { return mx::sum(x, -1); };
    const auto squares = row(mx::square(target));
    const auto out = row(mx::square(recon));
    const auto both = row(mx::multiply(target, recon));
    const auto error = row(mx::square(mx::subtract(target, recon)));
    const auto size = row(mx::abs(acts));
    const auto on = mx::astype(mx::not_equal(acts, mx::array(0.0f)), mx::int32);
    const auto of_feature = mx::sum(on, 0);
    const auto of_row = row(on);
    const auto x = mx::contiguous(target);
    mx::eval(squares, out, both, error, size, of_feature, of_row, x);
    const size_t n = squares.size();
    for (size_t i = 0; i < n; ++i) {
      const double s = squares.data<float>()[i], r = out.data<float>()[i];
      const double xr = both.data<float>()[i];
      squares_ += s;
      out_ += r;
      both_ += xr;
      errors_ += error.data<float>()[i];
      l1_ += size.data<float>()[i];
      l0_ += of_row.data<int>()[i];
      const double in = std::sqrt(s), made = std::sqrt(r);
      l2_in_ += in;
      l2_out_ += made;
      // SAELens divides by 1 there.
      l2_ratio_ += made / (in < 1e-4 ? 1 : in);
      cosine_ += in > 0 && made > 0 ? xr / (in * made) : 0;
    }
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < mean_.size(); ++j)
        mean_[j] += x.data<float>()[i * mean_.size() + j];
    for (size_t f = 0; f < active_.size(); ++f)
      active_[f] += of_feature.data<int>()[f];
    rows_ += static_cast<int64_t>(n);
  }

  void into(SaeEvaluation& out) const {
    const auto n = static_cast<double>(rows_);
    double mean = 0;
    for (const double sum : mean_)
      mean += sum / n * (sum / n);
    out.tokens = rows_;
    out.mse = errors_ / n;
    out.fvu = ratio(out.mse, squares_ / n - mean);
    out.explained_variance = 1 - out.fvu;
    out.cosine = cosine_ / n;
    out.l2_in = l2_in_ / n;
    out.l2_out = l2_out_ / n;
    out.l2_ratio = l2_ratio_ / n;
    out.relative_bias = ratio(out_, both_);
    out.l0 = l0_ / n;
    out.l1 = l1_ / n;
    out.active = active_;
    std::vector<double> densities;
    double least = 0;
    for (const auto count : active_) {
      if (count == 0) {
        ++out.dead;
        continue;
      }
      densities.push_back(std::log10(static_cast<double>(count) / n));
      least = std::min(least, densities.back());
    }
    if (densities.empty()) return;
    const int bins =
        std::max(1, static_cast<int>(std::ceil(-least / bin_width)));
    for (int b = bins; b-- > 0;)
      out.density.push_back(
          {.from = -bin_width * (b + 1), .to = -bin_width * b});
    for (const double density : densities) {
      // A density of 1 is the upper end of the last.
      const auto b = std::min(
          bins - 1, static_cast<int>(std::ceil(-density / bin_width)) - 1);
      ++out.density[static_cast<size_t>(bins - 1 - std::max(0, b))].features;
    }
  }

 private:
  int64_t rows_ = 0;
  double squares_ = 0, out_ = 0, both_ = 0, errors_ = 0, l0_ = 0, l1_ = 0;
  double l2_in_ = 0, l2_out_ = 0, l2_ratio_ = 0, cosine_ = 0;
  std::vector<double> mean_;
  std::vector<int64_t> active_;
};

// What edits do to what the model says, summed over positions.
class Losses {
 public:
  // Log-probabilities [pos, vocab] of the model's own, and of the two others.
  // Evaluates. Positions from `first` on count.
  void add(
      const mx::array& own,
      const mx::array& sae,
      const mx::array& zero,
      const std::vector<int>& ids,
      int first) {
    const int n = static_cast<int>(ids.size());
    const auto divergence = [&](const mx::array& other) {
      const auto p = behind(own, first, n), q = behind(other, first, n);
      return mx::sum(mx::multiply(mx::exp(p), mx::subtract(p, q)), -1);
    };
    const mx::array next(ids.data() + first + 1, {n - first - 1, 1}, mx::int32);
    const auto entropy = [&](const mx::array& log_p) {
      return mx::negative(
          mx::take_along_axis(behind(log_p, first, n - 1), next, -1));
    };
    auto kl_sae = divergence(sae), kl_zero = divergence(zero);
    auto ce = entropy(own), ce_sae = entropy(sae), ce_zero = entropy(zero);
    mx::eval(kl_sae, kl_zero, ce, ce_sae, ce_zero);
    positions_ += n - first;
    predicted_ += n - first - 1;
    kl_sae_ += total(kl_sae);
    kl_zero_ += total(kl_zero);
    ce_ += total(ce);
    ce_sae_ += total(ce_sae);
    ce_zero_ += total(ce_zero);
  }

  void into(SaeEvaluation& out) const {
    const auto n = static_cast<double>(positions_);
    const auto m = static_cast<double>(predicted_);
    out.predicted = predicted_;
    out.ce = ratio(ce_, m);
    out.ce_sae = ratio(ce_sae_, m);
    out.ce_zero = ratio(ce_zero_, m);
    out.kl_sae = ratio(kl_sae_, n);
    out.kl_zero = ratio(kl_zero_, n);
    out.ce_score = ratio(out.ce_zero - out.ce_sae, out.ce_zero - out.ce);
    out.kl_score = ratio(out.kl_zero - out.kl_sae, out.kl_zero);
  }

 private:
  static mx::array behind(const mx::array& x, int from, int to) {
    return mx::slice(x, {from, 0}, {to, x.shape(1)});
  }

  static double total(const mx::array& x) {
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i)
      sum += x.data<float>()[i];
    return sum;
  }

  int64_t positions_ = 0, predicted_ = 0;
  double kl_sae_ = 0, kl_zero_ = 0, ce_ = 0, ce_sae_ = 0, ce_zero_ = 0;
};

class Evaluator {
 public:
  Evaluator(
      const InterpretableModel& model,
      const Sae& sae,
      const SaeEvalOptions& options)
      : model_(model), sae_(sae), options_(options), sums_(sae) {
    check(sae);
    if (sae.kind == SaeKind::cross_layer)
      fail(
          ErrorKind::usage,
          "[sae] a cross-layer transcoder writes {} layers and cannot take one "
          "site's place; evaluate a transcoder of one layer",
          sae.targets());
    out_.sites = sae_sites(model, sae, options.site, options.reads);
  }

  void add(const std::vector<int>& ids) {
    const int n = static_cast<int>(ids.size());
    const int first = options_.first ? 0 : 1;
    if (n < first + 2) return;  // nothing is predicted
    const auto &reads = out_.sites.reads, &writes = out_.sites.writes;
    const auto run = model_.run(ids, {.save = {reads, writes, "logits"}});
    const auto rows = [&](const std::string& site) {
      return mx::reshape(mx::astype(run[site], mx::float32), {n, -1});
    };
    const auto x = rows(reads), target = rows(writes);
    const auto acts = encode(sae_, x);
    const auto recon = decode(sae_, acts, x);
    const auto counted = [&](const mx::array& all) {
      return mx::slice(all, {first, 0}, {n, all.shape(1)});
    };
    sums_.add_rows(counted(target), counted(recon), counted(acts));
    auto made = counted(recon);
    if (first > 0)
      made = mx::concatenate(
          {mx::slice(target, {0, 0}, {first, target.shape(1)}), made}, 0);
    made = mx::reshape(made, run[writes].shape());
    const auto log_p = [&](const mx::array& logits) {
      const auto wide = mx::squeeze(mx::astype(logits, mx::float32), 0);
      return mx::subtract(wide, mx::logsumexp(wide, -1, true));
    };
    const auto with = [&](Intervention edit) {
      return log_p(model_.run(
          ids,
          {.save = {"logits"},
           .edits = {{writes, std::move(edit)}}})["logits"]);
    };
    losses_.add(
        log_p(run["logits"]),
        with(replace_with(made)),
        with(zero_out()),
        ids,
        first);
    ++out_.windows;
  }

  SaeEvaluation take() {
    if (out_.windows == 0)
      fail(
          ErrorKind::usage,
          "[sae] the text is too short to evaluate on: no prompt of it has {} "
          "tokens",
          options_.first ? 2 : 3);
    sums_.into(out_);
    losses_.into(out_);
    return std::move(out_);
  }

 private:
  const InterpretableModel& model_;
  const Sae& sae_;
  const SaeEvalOptions& options_;
  Sums sums_;
  Losses losses_;
  SaeEvaluation out_;
};

}  // namespace

SaeEvaluation evaluate_sae_on_text(
    const InterpretableModel& model,
    const Sae& sae,
    const fs::path& text,
    const SaeEvalOptions& options) {
  const int context = context_length(model);
  const int length = std::min(options.length, context);
  if (options.length < 3 || options.tokens < 0)
    fail(
        ErrorKind::usage,
        "[sae] windows of {} tokens, {} in all; windows have at least 3, and 0 "
        "in all means the whole text",
        options.length,
        options.tokens);
  Evaluator evaluator(model, sae, options);
  TextFiles files(text, options.warn);
  Windows windows(
      documents_of(model, files),
      {.length = length,
       .bos = first_token_of(model),
       .tokens = options.tokens},
      {});
  while (const auto window = windows.next()) {
    evaluator.add(window->ids);
    if (options.progress)
      options.progress("Evaluating", files.share(windows.place().document));
  }
  if (options.progress) options.progress("Evaluating", 1.0);
  return evaluator.take();
}

SaeEvaluation evaluate_sae(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompts,
    const SaeEvalOptions& options) {
  Evaluator evaluator(model, sae, options);
  const auto rows = model.token_ids(prompts);
  for (size_t i = 0; i < rows.size(); ++i) {
    evaluator.add(rows[i]);
    if (options.progress)
      options.progress(
          "Evaluating",
          static_cast<double>(i + 1) / static_cast<double>(rows.size()));
  }
  return evaluator.take();
}

}  // namespace mlxterp
