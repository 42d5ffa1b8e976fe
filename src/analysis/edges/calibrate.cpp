#include "analysis/edges/calibrate.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "analysis/random.h"

namespace mlxterp {

namespace {

// Of 9 errors the largest is what the next stays within 9 times of 10.
constexpr size_t fewest = 9;

struct Run {
  double score = 0, error = 0;
};

using ByDistance = std::map<int, std::vector<Run>>;

// What the next of such errors is at most with that likelihood; infinite where
// too few say so.
double band(std::vector<double> errors, double likelihood) {
  const auto n = static_cast<double>(errors.size());
  const auto rank = static_cast<size_t>(std::ceil(likelihood * (n + 1)));
  if (rank > errors.size()) return std::numeric_limits<double>::infinity();
  std::ranges::sort(errors);
  return errors[rank - 1];
}

std::vector<double> sizes(const Run* begin, const Run* end) {
  std::vector<double> out;
  for (; begin != end; ++begin)
    out.push_back(std::abs(begin->error));
  return out;
}

EdgeErrors errors_of(int distance, const std::vector<Run>& runs) {
  EdgeErrors out{.distance = distance, .edges = runs.size()};
  const auto n = static_cast<double>(runs.size());
  for (const auto& run : runs) {
    out.mean += run.error / n;
    out.rms += run.error * run.error / n;
  }
  out.rms = std::sqrt(out.rms);
  const auto all = sizes(runs.data(), runs.data() + runs.size());
  // Where that few edges are all there are, none lies beyond.
  const double largest = std::ranges::max(all);
  out.within_68 = std::min(largest, band(all, 0.68));
  out.within_90 = std::min(largest, band(all, 0.9));
  return out;
}

// Each half of a distance's edges against the bands of the other. Halves too
// small to have any are left out.
EdgeCoverage coverage_of(const ByDistance& all) {
  struct HeldOut {
    double score = 0;
    bool within_68 = false, within_90 = false;
  };
  std::vector<HeldOut> held_out;
  for (const auto& [distance, runs] : all) {
    const auto* begin = runs.data();
    const auto* end = begin + runs.size();
    const auto* middle = begin + runs.size() / 2;
    const auto test =
        [&](const Run* from, const Run* to, const std::vector<double>& others) {
          if (others.size() < fewest) return;
          const double of_68 = band(others, 0.68), of_90 = band(others, 0.9);
          for (; from != to; ++from) {
            const double error = std::abs(from->error);
            held_out.push_back(
                {std::abs(from->score), error <= of_68, error <= of_90});
          }
        };
    test(begin, middle, sizes(middle, end));
    test(middle, end, sizes(begin, middle));
  }
  const auto share = [&](size_t count, bool HeldOut::*within) {
    if (count == 0) return std::numeric_limits<double>::quiet_NaN();
    return static_cast<double>(std::count_if(
               held_out.begin(),
               held_out.begin() + static_cast<long>(count),
               [&](const HeldOut& it) { return it.*within; })) /
           static_cast<double>(count);
  };
  std::ranges::stable_sort(held_out, std::greater(), &HeldOut::score);
  return {
      .within_68 = share(held_out.size(), &HeldOut::within_68),
      .within_90 = share(held_out.size(), &HeldOut::within_90),
      .strong_90 = share((held_out.size() + 9) / 10, &HeldOut::within_90)};
}

}  // namespace

std::vector<bool> drawn_edges(
    const EdgeGraph& graph, double share, uint64_t seed) {
  const auto to = graph.destinations.size();
  std::map<int, std::vector<size_t>> by_distance;
  for (size_t s = 0; s < graph.sources.size(); ++s)
    for (size_t d = 0; d < to; ++d)
      if (s < static_cast<size_t>(graph.destinations[d].before))
        by_distance[graph.destinations[d].layer - graph.sources[s].layer]
            .push_back(s * to + d);
  Random random(seed);
  std::vector<bool> out(graph.sources.size() * to, false);
  for (auto& [distance, all] : by_distance) {
    random.shuffle(all, all.size());
    const auto count =
        static_cast<size_t>(std::ceil(share * static_cast<double>(all.size())));
    all.resize(std::min(all.size(), std::max(count, fewest)));
    for (const auto i : all)
      out[i] = true;
  }
  return out;
}

void calibrate(EdgeScores& found, uint64_t seed) {
  const auto to = found.destinations.size();
  ByDistance all;
  for (size_t i = 0; i < found.exact.size(); ++i)
    if (!std::isnan(found.exact[i]))
      all[found.destinations[i % to].layer - found.sources[i / to].layer]
          .push_back(
              {static_cast<double>(found.scores[i]),
               static_cast<double>(found.exact[i]) -
                   static_cast<double>(found.scores[i])});
  Random random(seed);
  for (auto& [distance, runs] : all) {
    random.shuffle(runs, runs.size());
    found.errors.push_back(errors_of(distance, runs));
  }
  found.coverage = coverage_of(all);
}

}  // namespace mlxterp
