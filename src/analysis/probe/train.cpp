// Probes: cross-validation by groups, and controls.

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "analysis/probe/fit.h"
#include "analysis/random.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlx/utils.h"
#include "mlxterp/analysis/probe.h"
#include "mlxterp/core/limits.h"

namespace mx = mlx::core;

namespace mlxterp {

using namespace probing;  // NOLINT(google-build-using-namespace): its own parts

namespace {

constexpr const char* function = "train_probe";
constexpr int random_coordinates = 16;

using Indices = std::vector<int64_t>;

Matrix matrix_of(const mx::array& rows) {
  if (rows.ndim() != 2 || rows.shape(0) == 0 || rows.shape(1) == 0 ||
      !mx::issubdtype(rows.dtype(), mx::floating))
    fail(
        ErrorKind::usage,
        "[{}] the rows are not [row, d] of floating-point numbers but have {} "
        "axes; flatten heads, and choose a position of each prompt",
        function,
        rows.ndim());
  auto plain = mx::contiguous(mx::astype(rows, mx::float32));
  auto finite = mx::all(mx::isfinite(plain));
  mx::eval(plain, finite);
  if (!finite.item<bool>())
    fail(
        ErrorKind::bad_data,
        "[{}] the rows hold NaN or infinity; leave such rows out",
        function);
  Matrix out;
  out.n = plain.shape(0);
  out.d = plain.shape(1);
  out.values.assign(plain.data<float>(), plain.data<float>() + plain.size());
  return out;
}

Indices everything(int64_t n) {
  Indices out(static_cast<size_t>(n));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

struct Fold {
  Indices train, test;
};

class Trainer {
 public:
  Trainer(const Matrix& x, const ProbeOptions& options)
      : x_(x), options_(options) {}

  // In the units of x, of all coordinates; those of `chosen` are not 0.
  struct Trained {
    Linear linear;
    Indices chosen;
  };

  // `random_k`: on so many random coordinates; 0: as the options say.
  Trained train(
      const Indices& rows,
      const std::vector<double>& labels,
      int random_k,
      Random& random) const {
    Trained out;
    out.chosen = random_k > 0     ? drawn(random_k, random)
                 : options_.k > 0 ? best(rows, labels)
                                  : everything(x_.d);
    Matrix part;
    part.n = static_cast<int64_t>(rows.size());
    part.d = static_cast<int64_t>(out.chosen.size());
    part.values.resize(rows.size() * out.chosen.size());
    std::vector<double> y;
    for (size_t i = 0; i < rows.size(); ++i) {
      y.push_back(labels[static_cast<size_t>(rows[i])]);
      for (size_t j = 0; j < out.chosen.size(); ++j)
        part.row(static_cast<int64_t>(i))[j] =
            x_.row(rows[i])[static_cast<size_t>(out.chosen[j])];
    }
    const auto scaling = Scaling::of(part, options_.standardize);
    scaling.apply(part);
    const auto found =
        scaling.undo(fit(part, y, options_.kind, options_.l2, [&] { tell(); }));
    out.linear.weight.resize(static_cast<size_t>(x_.d));
    out.linear.bias = found.bias;
    for (size_t j = 0; j < out.chosen.size(); ++j)
      out.linear.weight[static_cast<size_t>(out.chosen[j])] = found.weight[j];
    return out;
  }

  ProbeScore score(
      const std::vector<Fold>& folds,
      const std::vector<double>& labels,
      int random_k,
      Random& random) {
    ProbeScore out;
    // The rows of all folds: a fold's own probe scores them.
    std::vector<std::pair<double, double>> all;
    for (size_t f = 0; f < folds.size(); ++f) {
      if (!trainable(folds[f], labels))
        fail(
            ErrorKind::usage,
            "[{}] without fold {} there are labels of one class only; use "
            "fewer folds, or groups in which both occur",
            function,
            f);
      const auto it = train(folds[f].train, labels, random_k, random);
      std::vector<std::pair<double, double>> said;
      for (const auto row : folds[f].test)
        said.emplace_back(
            it.linear.of(x_.row(row)), labels[static_cast<size_t>(row)]);
      out.folds.push_back(
          options_.kind == ProbeKind::logistic ? accuracy(said)
                                               : r_squared(said));
      all.insert(all.end(), said.begin(), said.end());
      done_ += 1;
    }
    out.mean = std::accumulate(out.folds.begin(), out.folds.end(), 0.0) /
               static_cast<double>(out.folds.size());
    if (options_.kind == ProbeKind::logistic) out.auc = auc_of(std::move(all));
    return out;
  }

  bool trainable(const Fold& fold, const std::vector<double>& labels) const {
    if (options_.kind == ProbeKind::ridge) return true;
    return std::ranges::any_of(fold.train, [&](int64_t row) {
      return labels[static_cast<size_t>(row)] !=
             labels[static_cast<size_t>(fold.train.front())];
    });
  }

  void expect(double fits) { fits_ = fits; }
  void tell() const {
    if (options_.progress) options_.progress("Training probes", done_ / fits_);
  }

 private:
  using Said = std::vector<std::pair<double, double>>;

  static double accuracy(const Said& said) {
    const auto right = std::ranges::count_if(
        said, [](const auto& it) { return (it.first > 0) == (it.second > 0); });
    return static_cast<double>(right) / static_cast<double>(said.size());
  }

  static double r_squared(const Said& said) {
    double mean = 0, left = 0, all = 0;
    for (const auto& [z, y] : said)
      mean += y / static_cast<double>(said.size());
    for (const auto& [z, y] : said) {
      left += (z - y) * (z - y);
      all += (y - mean) * (y - mean);
    }
    // Of a fold of one value there is nothing to explain.
    return all > 0 ? 1 - left / all : left > 0 ? 0 : 1;
  }

  // By ranks; equal scores count half.
  static double auc_of(Said said) {
    std::ranges::sort(said);
    double positives = 0, ranks = 0;
    for (size_t i = 0; i < said.size();) {
      size_t end = i;
      double here = 0;
      for (; end < said.size() && said[end].first == said[i].first; ++end)
        here += said[end].second;
      ranks += here * (static_cast<double>(i + end) + 1) / 2;
      positives += here;
      i = end;
    }
    const auto negatives = static_cast<double>(said.size()) - positives;
    const double above = ranks - positives * (positives + 1) / 2;
    return positives > 0 && negatives > 0 ? above / (positives * negatives)
                                          : 0.5;
  }

  Indices drawn(int k, Random& random) const {
    auto all = everything(x_.d);
    random.shuffle(all, static_cast<size_t>(k));
    all.resize(static_cast<size_t>(k));
    std::ranges::sort(all);
    return all;
  }

  // The coordinates with the greatest correlation to the label; of two classes
  // that orders them as the distance of their means in standard deviations
  // does.
  Indices best(const Indices& rows, const std::vector<double>& labels) const {
    const auto n = static_cast<double>(rows.size());
    double y_mean = 0;
    for (const auto row : rows)
      y_mean += labels[static_cast<size_t>(row)] / n;
    const auto d = static_cast<size_t>(x_.d);
    std::vector<double> mean(d), both(d), squares(d);
    for (const auto row : rows)
      for (size_t j = 0; j < d; ++j)
        mean[j] += static_cast<double>(x_.row(row)[j]) / n;
    for (const auto row : rows)
      for (size_t j = 0; j < d; ++j) {
        const double it = static_cast<double>(x_.row(row)[j]) - mean[j];
        both[j] += it * (labels[static_cast<size_t>(row)] - y_mean);
        squares[j] += it * it;
      }
    std::vector<double> how(d);
    for (size_t j = 0; j < d; ++j)
      how[j] = squares[j] > 0 ? std::abs(both[j]) / std::sqrt(squares[j]) : 0;
    auto all = everything(x_.d);
    std::ranges::stable_sort(all, [&](int64_t a, int64_t b) {
      return how[static_cast<size_t>(a)] > how[static_cast<size_t>(b)];
    });
    all.resize(static_cast<size_t>(options_.k));
    std::ranges::sort(all);
    return all;
  }

  const Matrix& x_;
  const ProbeOptions& options_;
  double done_ = 0, fits_ = 1;
};

// The rows of each group; without groups each row is its own.
std::vector<Indices> groups_of(const std::vector<int>& groups, int64_t n) {
  std::map<int, Indices> found;
  for (int64_t i = 0; i < n; ++i)
    found[groups.empty() ? static_cast<int>(i) : groups[static_cast<size_t>(i)]]
        .push_back(i);
  std::vector<Indices> out;
  for (auto& [group, rows] : found)
    out.push_back(std::move(rows));
  return out;
}

// Whole groups, the largest first, each to the fold that has the fewest rows.
std::vector<Fold> folds_of(
    std::vector<Indices> groups, int64_t n, int count, Random& random) {
  random.shuffle(groups, groups.size());
  std::ranges::stable_sort(groups, [](const Indices& a, const Indices& b) {
    return a.size() > b.size();
  });
  std::vector<Indices> held(static_cast<size_t>(count));
  for (const auto& group : groups) {
    auto& least = *std::ranges::min_element(held, {}, &Indices::size);
    least.insert(least.end(), group.begin(), group.end());
  }
  std::vector<Fold> out;
  for (auto& test : held) {
    std::ranges::sort(test);
    Fold fold;
    std::ranges::set_difference(
        everything(n), test, std::back_inserter(fold.train));
    fold.test = std::move(test);
    out.push_back(std::move(fold));
  }
  return out;
}

// In random order: of whole groups where each has one label, else of rows.
std::vector<double> shuffled(
    const std::vector<double>& labels,
    const std::vector<Indices>& groups,
    Random& random) {
  const auto label = [&](int64_t row) {
    return labels[static_cast<size_t>(row)];
  };
  const bool whole = std::ranges::all_of(groups, [&](const Indices& rows) {
    return std::ranges::all_of(
        rows, [&](int64_t row) { return label(row) == label(rows.front()); });
  });
  auto out = labels;
  if (!whole) {
    random.shuffle(out, out.size());
    return out;
  }
  std::vector<double> of_groups;
  for (const auto& rows : groups)
    of_groups.push_back(label(rows.front()));
  random.shuffle(of_groups, of_groups.size());
  for (size_t g = 0; g < groups.size(); ++g)
    for (const auto row : groups[g])
      out[static_cast<size_t>(row)] = of_groups[g];
  return out;
}

void check(
    const Matrix& x,
    const std::vector<double>& labels,
    const std::vector<int>& groups,
    const ProbeOptions& o) {
  const auto n = static_cast<size_t>(x.n);
  if (labels.size() != n || (!groups.empty() && groups.size() != n))
    fail(
        ErrorKind::usage,
        "[{}] there are {} rows, {} labels and {} groups; give a label, and a "
        "group or none, for each row",
        function,
        n,
        labels.size(),
        groups.size());
  if (!(o.l2 > 0) || !std::isfinite(o.l2) || o.k < 0 || o.k > x.d ||
      o.folds < 0 || o.folds == 1)
    fail(
        ErrorKind::usage,
        "[{}] l2 {}, k {}, folds {}; give an l2 above 0, k from 0 to {}, and "
        "0 or at least 2 folds",
        function,
        o.l2,
        o.k,
        o.folds,
        x.d);
  std::set<double> seen;
  for (const double label : labels) {
    if (!std::isfinite(label) ||
        (o.kind == ProbeKind::logistic && label != 0 && label != 1))
      fail(
          ErrorKind::usage,
          "[{}] a label is {}; a logistic probe takes 0 and 1, ridge any "
          "finite number",
          function,
          label);
    if (seen.size() < 2) seen.insert(label);
  }
  if (seen.size() < 2)
    fail(
        ErrorKind::usage,
        "[{}] all {} labels are {}; a probe needs rows of both classes, or of "
        "different values",
        function,
        n,
        *seen.begin());
}

}  // namespace

ProbeResult train_probe(
    const mx::array& rows,
    const std::vector<double>& labels,
    const std::vector<int>& groups,
    const ProbeOptions& options) {
  const auto x = matrix_of(rows);
  check(x, labels, groups, options);
  const auto whole_groups = groups_of(groups, x.n);
  ProbeResult out;
  out.rows = x.n;
  out.groups = static_cast<int64_t>(whole_groups.size());
  if (out.groups < options.folds)
    fail(
        ErrorKind::usage,
        "[{}] {} groups cannot make {} folds; use fewer folds, or more groups",
        function,
        out.groups,
        options.folds);
  if (options.kind == ProbeKind::logistic) {
    const double second = std::accumulate(labels.begin(), labels.end(), 0.0) /
                          static_cast<double>(labels.size());
    out.baseline = std::max(second, 1 - second);
  }
  Trainer trainer(x, options);
  trainer.expect(1 + options.folds * (options.controls ? 3 : 1));
  // What is drawn for one does not depend on whether the others are made.
  Random order(options.seed), labels_order(options.seed + 1),
      coordinates(options.seed + 2);
  if (options.folds > 0) {
    const auto folds = folds_of(whole_groups, x.n, options.folds, order);
    out.held_out = trainer.score(folds, labels, 0, order);
    if (options.controls) {
      auto mixed = shuffled(labels, whole_groups, labels_order);
      constexpr int tries = 100;  // few groups may leave a fold one class
      for (int i = 0; i < tries; ++i) {
        if (std::ranges::all_of(folds, [&](const Fold& fold) {
              return trainer.trainable(fold, mixed);
            }))
          break;
        mixed = shuffled(labels, whole_groups, labels_order);
      }
      out.shuffled_labels = trainer.score(folds, mixed, 0, order);
      out.random_k = options.k > 0
                         ? options.k
                         : std::min(random_coordinates, static_cast<int>(x.d));
      out.random_coordinates =
          trainer.score(folds, labels, out.random_k, coordinates);
    }
  }
  const auto found = trainer.train(everything(x.n), labels, 0, order);
  auto& probe = out.probe;
  probe.kind = options.kind;
  probe.weight.assign(found.linear.weight.begin(), found.linear.weight.end());
  probe.bias = static_cast<float>(found.linear.bias);
  if (options.k > 0)
    probe.coordinates.assign(found.chosen.begin(), found.chosen.end());
  // The spread along the weight, of what it says.
  double length = 0, mean = 0, squares = 0;
  for (const double it : found.linear.weight)
    length += it * it;
  length = std::sqrt(length);
  const auto n = static_cast<double>(x.n);
  std::vector<double> said;
  for (int64_t i = 0; i < x.n; ++i)
    mean += said.emplace_back(found.linear.of(x.row(i))) / n;
  for (const double it : said)
    squares += (it - mean) * (it - mean) / n;
  probe.spread =
      length > 0 ? static_cast<float>(std::sqrt(squares) / length) : 0;
  const auto fits = [](float it) { return std::isfinite(it); };
  if (!std::ranges::all_of(probe.weight, fits) || !fits(probe.bias) ||
      !fits(probe.spread)) {
    const auto size = [](double a, double b) {
      return std::abs(a) < std::abs(b);
    };
    fail(
        ErrorKind::usage,
        "[{}] the weights, the bias {:.3g} or what they say are beyond "
        "float32, "
        "in which a probe is kept; the largest label is {:.3g}, the largest "
        "value of a row {:.3g}: scale them",
        function,
        found.linear.bias,
        *std::ranges::max_element(labels, size),
        static_cast<double>(*std::ranges::max_element(x.values, size)));
  }
  if (options.progress) options.progress("Training probes", 1);
  return out;
}

}  // namespace mlxterp
