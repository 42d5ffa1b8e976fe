#include "analysis/jacobian/sparse.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace mlxterp::jacobian {

namespace {

using Vector = std::vector<double>;

// Of unit atoms: what is left of one behind others that span it.
constexpr double spanned = 1e-12;

Vector gradient(const Gram& gram, const Vector& b, const Vector& c) {
  auto out = b;
  for (size_t i = 0; i < b.size(); ++i)
    for (size_t j = 0; j < b.size(); ++j)
      out[i] -= gram[i][j] * c[j];
  return out;
}

double loss(const Gram& gram, const Vector& b, const Vector& c) {
  double out = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    double row = 0;
    for (size_t j = 0; j < b.size(); ++j)
      row += gram[i][j] * c[j];
    out += c[i] * (row / 2 - b[i]);
  }
  return out;
}

// Of these atoms alone, by Cholesky; nothing where one is spanned by those
// before it.
std::optional<Vector> solve(
    const Gram& gram, const Vector& b, const std::vector<size_t>& of) {
  const size_t n = of.size();
  Gram l(n, Vector(n));
  Vector y(n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      double sum = gram[of[i]][of[j]];
      for (size_t m = 0; m < j; ++m)
        sum -= l[i][m] * l[j][m];
      if (i != j) {
        l[i][j] = sum / l[j][j];
        continue;
      }
      if (!(sum > spanned)) return std::nullopt;
      l[i][i] = std::sqrt(sum);
    }
    double sum = b[of[i]];
    for (size_t m = 0; m < i; ++m)
      sum -= l[i][m] * y[m];
    y[i] = sum / l[i][i];
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t m = i + 1; m < n; ++m)
      y[i] -= l[m][i] * y[m];
    y[i] /= l[i][i];
  }
  return y;
}

}  // namespace

Vector nnls(const Gram& gram, const Vector& b) {
  const size_t n = b.size();
  double scale = 0;
  for (const double x : b)
    scale = std::max(scale, std::abs(x));
  Vector c(n, 0.0);
  std::vector<size_t> active;
  std::vector<bool> refused(n, false);
  // Each round makes the loss less, so no set comes twice; the bound is for
  // what rounding might do.
  for (size_t round = 0; round < 3 * n + 3; ++round) {
    const auto g = gradient(gram, b, c);
    std::optional<size_t> best;
    for (size_t i = 0; i < n; ++i)
      if (std::ranges::find(active, i) == active.end() && !refused[i] &&
          g[i] > 1e-12 * scale && (!best || g[i] > g[*best]))
        best = i;
    if (!best) break;
    active.push_back(*best);
    auto solved = solve(gram, b, active);
    if (!solved) {
      active.pop_back();
      refused[*best] = true;
      continue;
    }
    while (!active.empty()) {
      // Back along the line to where the first of them becomes 0.
      double part = 1;
      for (size_t i = 0; i < active.size(); ++i)
        if ((*solved)[i] <= 0) {
          const double old = c[active[i]];
          part = std::min(part, old / (old - (*solved)[i]));
        }
      for (size_t i = 0; i < active.size(); ++i)
        c[active[i]] += part * ((*solved)[i] - c[active[i]]);
      if (part == 1) break;
      std::vector<size_t> kept;
      for (size_t i = 0; i < active.size(); ++i) {
        const bool stays = (*solved)[i] > 0 || c[active[i]] > 1e-12 * scale;
        if (stays)
          kept.push_back(active[i]);
        else
          c[active[i]] = 0;
      }
      active = std::move(kept);
      solved = solve(gram, b, active);
      if (!solved) return c;
    }
  }
  return c;
}

Vector pursuit_step(const Gram& gram, const Vector& b, Vector c) {
  auto g = gradient(gram, b, c);
  for (size_t i = 0; i < b.size(); ++i)
    if (c[i] == 0 && g[i] < 0) g[i] = 0;  // the bound holds it
  double along = 0, curve = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    along += g[i] * g[i];
    for (size_t j = 0; j < b.size(); ++j)
      curve += g[i] * gram[i][j] * g[j];
  }
  if (!(along > 0) || !(curve > 0)) return c;
  const double before = loss(gram, b, c);
  double step = along / curve;
  for (int halved = 0; halved < 40; ++halved, step /= 2) {
    auto next = c;
    for (size_t i = 0; i < b.size(); ++i)
      next[i] = std::max(0.0, c[i] + step * g[i]);
    if (loss(gram, b, next) <= before) return next;
  }
  return c;
}

}  // namespace mlxterp::jacobian
