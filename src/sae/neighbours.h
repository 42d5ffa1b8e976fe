// sae/neighbours.h: features that are like one another: by what they write, and
// by when they are active.

#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "mlxterp/sae/dashboard.h"

namespace mlxterp {

/** Of each feature in `features` the `top` others whose decoder rows have the
 * largest cosine with its own (of a cross_layer SAE, of all targets side by
 * side); rows of length 0 are like nothing. Evaluates, some features at a time.
 */
std::vector<std::vector<FeatureDashboard::Similar>> similar_features(
    const Sae& sae, const std::vector<int>& features, int top);

/** Sums of products of features' activations, over positions one by one, in
 * float64. A position costs the square of the features that are active there.
 * One thread at a time. */
class Correlations {
 public:
  explicit Correlations(size_t features);

  /** Of a position, the columns that are not 0, ascending. */
  void add(const std::vector<std::pair<size_t, float>>& active);

  /** Of a column the `top` others with the largest pearson. `numbers`: what
   * the columns' features are called. */
  std::vector<FeatureDashboard::Correlated> of(
      size_t column, const std::vector<int>& numbers, int top) const;

 private:
  struct Pair {
    double product = 0;
    int64_t both = 0;
  };
  const Pair& pair(size_t a, size_t b) const;

  size_t n_;
  int64_t positions_ = 0;
  std::vector<double> sums_, squares_;
  std::vector<Pair> pairs_;  // a < b: row by row of the upper triangle
};

}  // namespace mlxterp
