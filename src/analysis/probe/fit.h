// analysis/probe/fit.h: penalised logistic and least-squares regression.

#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "mlxterp/analysis/probe.h"

namespace mlxterp::probing {

/** Rows [n, d] in float32, row by row. */
struct Matrix {
  int64_t n = 0, d = 0;
  std::vector<float> values = {};

  const float* row(int64_t i) const {
    return values.data() + static_cast<size_t>(i * d);
  }
  float* row(int64_t i) { return values.data() + static_cast<size_t>(i * d); }
};

struct Linear {
  std::vector<double> weight = {};
  double bias = 0;

  double of(const float* row) const;
};

/** Scales to unit variance and back. */
struct Scaling {
  std::vector<double> mean = {}, scale = {};

  /** Of these rows; without `standardize` only the mean is taken off. A
   * coordinate that never changes keeps its scale. */
  static Scaling of(const Matrix& x, bool standardize);
  void apply(Matrix& x) const;
  /** What is linear in scaled rows, of unscaled ones. */
  Linear undo(const Linear& it) const;
};

/**
 * The minimum of the sum of losses + l2 / 2 |w|^2, with a free bias, by
 * Newton's method: losses and gradients in float64, the products of the Hessian
 * in float32 on MLX, which changes the path and not the end. Where there are
 * fewer rows than coordinates the step is taken among the rows (Woodbury). `x`
 * is scaled or at least centred; `y` is 0 or 1, or a number. `between` is
 * called at each step and may throw. Throws usage where it does not converge.
 */
Linear fit(
    const Matrix& x,
    const std::vector<double>& y,
    ProbeKind kind,
    double l2,
    const std::function<void()>& between = {});

}  // namespace mlxterp::probing
