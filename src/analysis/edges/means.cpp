#include "analysis/edges/means.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace mlxterp {

void put_means(
    EdgeScores& out,
    const std::vector<double>& sums,
    const std::vector<double>& squares) {
  const auto n = static_cast<double>(out.pairs);
  const size_t to = out.destinations.size();
  out.scores.assign(sums.size(), std::numeric_limits<float>::quiet_NaN());
  out.spread = out.scores;
  for (size_t c = 0; c < sums.size(); ++c) {
    const auto source = c / to % out.sources.size();
    if (source >= static_cast<size_t>(out.destinations[c % to].before))
      continue;
    const double mean = sums[c] / n;
    out.scores[c] = static_cast<float>(mean);
    out.spread[c] = static_cast<float>(
        std::sqrt(std::max(0.0, squares[c] / n - mean * mean)));
  }
}

}  // namespace mlxterp
