#include "analysis/probe/fit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "core/fail.h"
#include "core/parallel.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp::probing {

namespace {

constexpr int most_steps = 100;
constexpr size_t lanes = 8;  // sums that the compiler may keep in one register

double dot(const double* w, const float* x, size_t n) {
  double sums[lanes] = {};
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (size_t k = 0; k < lanes; ++k)
      sums[k] += w[i + k] * static_cast<double>(x[i + k]);
  double sum = 0;
  for (; i < n; ++i)
    sum += w[i] * static_cast<double>(x[i]);
  for (const double it : sums)
    sum += it;
  return sum;
}

double dot(const double* a, const double* b, size_t n) {
  double sums[lanes] = {};
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (size_t k = 0; k < lanes; ++k)
      sums[k] += a[i + k] * b[i + k];
  double sum = 0;
  for (; i < n; ++i)
    sum += a[i] * b[i];
  for (const double it : sums)
    sum += it;
  return sum;
}

// A symmetric positive definite matrix [n, n] as L L^T; more is put on the
// diagonal until it is one.
class Cholesky {
 public:
  // The lower half of `a` is read, `diagonal` added to it.
  Cholesky(std::vector<double> a, const std::vector<double>& diagonal)
      : n_(diagonal.size()), l_(a.size()) {
    double mean = 0;
    for (size_t i = 0; i < n_; ++i) {
      a[i * n_ + i] += diagonal[i];
      mean += a[i * n_ + i] / static_cast<double>(n_);
    }
    if (!std::isfinite(mean))
      fail(
          ErrorKind::usage,
          "[train_probe] the squares of the rows are beyond float32; "
          "standardise, or scale them down");
    for (double more = 0; !factor(a, more);
         more = std::max(10 * more, 1e-9 * mean)) {
    }
  }

  std::vector<double> solve(std::vector<double> b) const {
    for (size_t i = 0; i < n_; ++i)
      b[i] = (b[i] - dot(&l_[i * n_], b.data(), i)) / l_[i * n_ + i];
    for (size_t i = n_; i-- > 0;) {
      b[i] /= l_[i * n_ + i];
      for (size_t j = 0; j < i; ++j)
        b[j] -= l_[i * n_ + j] * b[i];
    }
    return b;
  }

 private:
  bool factor(const std::vector<double>& a, double more) {
    for (size_t i = 0; i < n_; ++i) {
      auto* row = &l_[i * n_];
      for (size_t j = 0; j < i; ++j)
        row[j] = (a[i * n_ + j] - dot(row, &l_[j * n_], j)) / l_[j * n_ + j];
      const double left = a[i * n_ + i] + more - dot(row, row, i);
      if (!(left > 0)) return false;
      row[i] = std::sqrt(left);
    }
    return true;
  }

  size_t n_;
  std::vector<double> l_;
};

// X^T C X for curvatures C of each row, in float32 on MLX: by far the most
// work, of which only the direction of a step is made.
std::vector<double> weighted_squares(
    const Matrix& x, const std::vector<double>& curvature) {
  const int n = static_cast<int>(x.n), d = static_cast<int>(x.d);
  std::vector<float> roots;
  for (const double c : curvature)
    roots.push_back(static_cast<float>(std::sqrt(c)));
  const auto scaled = mx::multiply(
      mx::array(x.values.data(), {n, d}, mx::float32),
      mx::array(roots.data(), {n, 1}, mx::float32));
  auto squares = mx::contiguous(mx::matmul(mx::transpose(scaled), scaled));
  squares.eval();
  return {squares.data<float>(), squares.data<float>() + squares.size()};
}

// (X^T C X + l2 I)^-1 v for curvatures C of each row: by Cholesky, and then by
// conjugate gradients as far as float64 goes.
class Inverse {
 public:
  Inverse(const Matrix& x, double l2) : x_(x), l2_(l2) {
    if (x.n >= x.d) return;
    const auto n = static_cast<size_t>(x.n), d = static_cast<size_t>(x.d);
    among_rows_.resize(n * n);
    split_over_cores(n, 64, [&](size_t begin, size_t end) {
      std::vector<double> row(d);
      for (size_t i = begin; i < end; ++i) {
        const auto* from = x_.row(static_cast<int64_t>(i));
        row.assign(from, from + d);
        for (size_t j = 0; j <= i; ++j)
          among_rows_[i * n + j] =
              dot(row.data(), x_.row(static_cast<int64_t>(j)), d);
      }
    });
  }

  void set(const std::vector<double>& curvature) {
    curvature_ = curvature;
    if (among_rows_.empty()) {
      factor_.emplace(
          weighted_squares(x_, curvature),
          std::vector<double>(static_cast<size_t>(x_.d), l2_));
      return;
    }
    // Of a row that hardly bends the diagonal is large, not infinite.
    constexpr double least = 1e-12;
    std::vector<double> diagonal;
    for (const double c : curvature)
      diagonal.push_back(l2_ / std::max(c, least));
    factor_.emplace(among_rows_, diagonal);
  }

  std::vector<double> times(const std::vector<double>& v) const {
    constexpr int most = 50;
    constexpr double near = 1e-12;
    const auto d = v.size();
    std::vector<double> out(d), left = v, way = nearly(v);
    const double whole = dot(v.data(), v.data(), d);
    double gain = dot(left.data(), way.data(), d);
    for (int i = 0; i < most && gain > 0; ++i) {
      const auto seen = product(way);
      const double bend = dot(way.data(), seen.data(), d);
      if (!(bend > 0)) break;
      for (size_t j = 0; j < d; ++j) {
        out[j] += gain / bend * way[j];
        left[j] -= gain / bend * seen[j];
      }
      if (dot(left.data(), left.data(), d) <= near * near * whole) break;
      const auto next = nearly(left);
      const double was = std::exchange(gain, dot(left.data(), next.data(), d));
      for (size_t j = 0; j < d; ++j)
        way[j] = next[j] + gain / was * way[j];
    }
    return out;
  }

 private:
  std::vector<double> nearly(const std::vector<double>& v) const {
    if (among_rows_.empty()) return factor_->solve(v);
    // Woodbury: (v - X^T (X X^T + l2 C^-1)^-1 X v) / l2.
    auto out = v;
    add_rows(out, factor_->solve(of_rows(v)), -1);
    for (auto& it : out)
      it /= l2_;
    return out;
  }

  std::vector<double> product(const std::vector<double>& v) const {
    auto said = of_rows(v);
    for (size_t i = 0; i < said.size(); ++i)
      said[i] *= curvature_[i];
    auto out = v;
    for (auto& it : out)
      it *= l2_;
    add_rows(out, said, 1);
    return out;
  }

  std::vector<double> of_rows(const std::vector<double>& v) const {
    std::vector<double> out(static_cast<size_t>(x_.n));
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = dot(v.data(), x_.row(static_cast<int64_t>(i)), v.size());
    return out;
  }

  void add_rows(
      std::vector<double>& to,
      const std::vector<double>& shares,
      double factor) const {
    for (size_t i = 0; i < shares.size(); ++i) {
      const auto* row = x_.row(static_cast<int64_t>(i));
      for (size_t j = 0; j < to.size(); ++j)
        to[j] += factor * shares[i] * static_cast<double>(row[j]);
    }
  }

  const Matrix& x_;
  double l2_;
  std::vector<double> among_rows_;  // X X^T where there are fewer rows
  std::vector<double> curvature_;
  std::optional<Cholesky> factor_;
};

// Of one row: the loss, its slope and its curvature, of what is said.
struct Loss {
  double value, slope, curvature;

  static Loss of(ProbeKind kind, double z, double y) {
    if (kind == ProbeKind::ridge) return {(z - y) * (z - y) / 2, z - y, 1};
    const double p = 1 / (1 + std::exp(-z));
    // log(1 + e^z) - y z, without overflow.
    const double softplus =
        std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z)));
    return {softplus - y * z, p - y, p * (1 - p)};
  }
};

struct State {
  double value = 0;
  std::vector<double> gradient;
  double bias_gradient = 0;
  std::vector<double> curvature;
};

State look(
    const Matrix& x,
    const std::vector<double>& y,
    ProbeKind kind,
    double l2,
    const Linear& at,
    bool whole) {
  State out;
  const auto d = static_cast<size_t>(x.d);
  out.value = l2 / 2 * dot(at.weight.data(), at.weight.data(), d);
  if (whole) {
    out.gradient = at.weight;
    for (auto& it : out.gradient)
      it *= l2;
    out.curvature.resize(static_cast<size_t>(x.n));
  }
  for (int64_t i = 0; i < x.n; ++i) {
    const auto* row = x.row(i);
    const auto loss = Loss::of(kind, at.of(row), y[static_cast<size_t>(i)]);
    out.value += loss.value;
    if (!whole) continue;
    out.curvature[static_cast<size_t>(i)] = loss.curvature;
    out.bias_gradient += loss.slope;
    for (size_t j = 0; j < d; ++j)
      out.gradient[j] += loss.slope * static_cast<double>(row[j]);
  }
  return out;
}

}  // namespace

double Linear::of(const float* row) const {
  return dot(weight.data(), row, weight.size()) + bias;
}

Scaling Scaling::of(const Matrix& x, bool standardize) {
  const auto d = static_cast<size_t>(x.d);
  const auto n = static_cast<double>(x.n);
  Scaling out;
  out.mean.resize(d);
  out.scale.assign(d, 1);
  for (int64_t i = 0; i < x.n; ++i)
    for (size_t j = 0; j < d; ++j)
      out.mean[j] += static_cast<double>(x.row(i)[j]);
  for (auto& it : out.mean)
    it /= n;
  if (!standardize) return out;
  std::vector<double> squares(d);
  for (int64_t i = 0; i < x.n; ++i)
    for (size_t j = 0; j < d; ++j) {
      const double it = static_cast<double>(x.row(i)[j]) - out.mean[j];
      squares[j] += it * it;
    }
  for (size_t j = 0; j < d; ++j) {
    const double spread = std::sqrt(squares[j] / n);
    // What is left of a constant is rounding.
    if (spread > 1e-7 * std::abs(out.mean[j])) out.scale[j] = spread;
  }
  return out;
}

void Scaling::apply(Matrix& x) const {
  for (int64_t i = 0; i < x.n; ++i)
    for (size_t j = 0; j < mean.size(); ++j) {
      auto& it = x.row(i)[j];
      it = static_cast<float>((static_cast<double>(it) - mean[j]) / scale[j]);
    }
}

Linear Scaling::undo(const Linear& it) const {
  auto out = it;
  for (size_t j = 0; j < mean.size(); ++j) {
    out.weight[j] /= scale[j];
    out.bias -= out.weight[j] * mean[j];
  }
  return out;
}

Linear fit(
    const Matrix& x,
    const std::vector<double>& y,
    ProbeKind kind,
    double l2,
    const std::function<void()>& between) {
  const auto d = static_cast<size_t>(x.d);
  Linear at;
  at.weight.resize(d);
  Inverse inverse(x, l2);
  auto state = look(x, y, kind, l2, at, /*whole=*/true);
  for (int step = 0; step < most_steps; ++step) {
    if (between) between();
    if (step == 0 || kind == ProbeKind::logistic) inverse.set(state.curvature);
    // The bias by elimination: [A c; c' s], A and its inverse as above.
    std::vector<double> c(d);
    double s = 0;
    for (int64_t i = 0; i < x.n; ++i) {
      const double weight = state.curvature[static_cast<size_t>(i)];
      s += weight;
      for (size_t j = 0; j < d; ++j)
        c[j] += weight * static_cast<double>(x.row(i)[j]);
    }
    const auto toward = inverse.times(state.gradient);
    const auto along = inverse.times(c);
    const double rest = s - dot(c.data(), along.data(), d);
    const double bias =
        rest > 0
            ? (state.bias_gradient - dot(c.data(), toward.data(), d)) / rest
            : 0;
    auto move = toward;
    for (size_t j = 0; j < d; ++j)
      move[j] -= bias * along[j];
    const double gain =
        dot(move.data(), state.gradient.data(), d) + bias * state.bias_gradient;
    const auto moved = [&](double share) {
      auto next = at;
      for (size_t j = 0; j < d; ++j)
        next.weight[j] -= share * move[j];
      next.bias -= share * bias;
      return next;
    };
    // So near, the step leaves less than sums in float64 can tell.
    constexpr double near = 1e-13;
    if (gain <= near * (1 + state.value)) return moved(1);

    // Half as far until it is better.
    constexpr double enough = 1e-4, least = 1e-12;
    double share = 1;
    while (share > least && !(look(x, y, kind, l2, moved(share), false).value <=
                              state.value - enough * share * gain))
      share /= 2;
    if (share <= least) break;
    at = moved(share);
    state = look(x, y, kind, l2, at, /*whole=*/true);
  }
  fail(
      ErrorKind::usage,
      "[train_probe] no minimum was found with l2 {}; use a larger l2, or "
      "standardise",
      l2);
}

}  // namespace mlxterp::probing
