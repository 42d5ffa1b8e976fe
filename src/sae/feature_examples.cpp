#include "sae/feature_examples.h"

#include <algorithm>
#include <cmath>

namespace mlxterp {

namespace {

// A number for each place in a text, as good as random (splitmix64).
uint64_t number_of(
    uint64_t seed, int feature, int64_t window, size_t position) {
  uint64_t x = seed;
  for (const uint64_t part :
       {static_cast<uint64_t>(feature),
        static_cast<uint64_t>(window),
        static_cast<uint64_t>(position)}) {
    x += 0x9e3779b97f4a7c15 + part;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    x ^= x >> 31;
  }
  return x;
}

std::vector<int64_t> pairs_merged(const std::vector<int64_t>& counts) {
  std::vector<int64_t> out(counts.size());
  for (size_t i = 0; i < counts.size(); ++i)
    out[i / 2] += counts[i];
  return out;
}

}  // namespace

int PowerGrid::grow(double magnitude) {
  const auto holds = [&](int exponent) {
    return std::ldexp(most_, exponent) >= magnitude;
  };
  if (empty_) {
    empty_ = false;
    exponent_ = std::ilogb(magnitude) - std::ilogb(most_) - 1;
    while (!holds(exponent_))
      ++exponent_;
    return 0;
  }
  int times = 0;
  for (; !holds(exponent_); ++times)
    ++exponent_;
  return times;
}

size_t PowerGrid::place(double magnitude) const {
  return static_cast<size_t>(std::ceil(std::ldexp(magnitude, -exponent_))) - 1;
}

double PowerGrid::width() const {
  return empty_ ? 0 : std::ldexp(1.0, exponent_);
}

FeatureExamples::FeatureExamples(
    int feature, size_t column, const DashboardOptions& options)
    : column_(column),
      options_(options),
      bins_(options.bins),
      stretches_(options.intervals),
      above_(static_cast<size_t>(options.bins)),
      below_(static_cast<size_t>(options.bins)),
      intervals_(static_cast<size_t>(options.intervals)) {
  out_.feature = feature;
}

FeatureExample FeatureExamples::example(
    const WindowActs& from, size_t position, float value) const {
  const auto before = static_cast<size_t>(options_.before);
  const auto begin = position > before ? position - before : 0;
  const auto end = std::min(
      from.ids.size(), position + static_cast<size_t>(options_.after) + 1);
  FeatureExample out{
      .value = value,
      .ids =
          {from.ids.begin() + static_cast<long>(begin),
           from.ids.begin() + static_cast<long>(end)},
      .at = static_cast<int>(position - begin),
      .document = from.document,
      .window = from.window,
      .position = static_cast<int64_t>(position)};
  for (size_t p = begin; p < end; ++p)
    out.acts.push_back(p == 0 ? 0.0f : from.acts[p * from.features + column_]);
  return out;
}

void FeatureExamples::grow(double magnitude) {
  for (int i = bins_.grow(magnitude); i > 0; --i) {
    above_ = pairs_merged(above_);
    below_ = pairs_merged(below_);
  }
  for (int i = stretches_.grow(magnitude); i > 0; --i)
    merge_intervals();
}

void FeatureExamples::merge_intervals() {
  std::vector<Interval> out(intervals_.size());
  const auto by_number = [](const Drawn& a, const Drawn& b) {
    return a.number < b.number;
  };
  for (size_t i = 0; i < intervals_.size(); ++i) {
    auto& into = out[i / 2];
    into.positions += intervals_[i].positions;
    for (auto& drawn : intervals_[i].drawn)
      into.drawn.push_back(std::move(drawn));
  }
  for (auto& interval : out) {
    std::ranges::stable_sort(interval.drawn, by_number);
    const auto most = static_cast<size_t>(options_.per_interval);
    while (interval.drawn.size() > most)
      interval.drawn.pop_back();
  }
  intervals_ = std::move(out);
}

void FeatureExamples::add(
    const WindowActs& from, size_t position, float value) {
  const double magnitude = std::abs(static_cast<double>(value));
  grow(magnitude);
  ++out_.active;
  sum_ += value;
  ++(value > 0 ? above_ : below_)[bins_.place(magnitude)];
  if (magnitude > std::abs(best_)) {
    best_ = value;
    best_at_ = position;
  }
  auto& interval = intervals_[stretches_.place(magnitude)];
  ++interval.positions;
  const auto most = static_cast<size_t>(options_.per_interval);
  const auto number =
      number_of(options_.seed, out_.feature, from.window, position);
  auto& drawn = interval.drawn;
  if (most == 0 || (drawn.size() == most && drawn.back().number <= number))
    return;
  const auto at = std::ranges::find_if(
      drawn, [&](const auto& other) { return other.number > number; });
  drawn.insert(at, Drawn{number, example(from, position, value)});
  if (drawn.size() > most) drawn.pop_back();
}

void FeatureExamples::end_window(const WindowActs& from) {
  const float value = std::exchange(best_, 0.0f);
  if (value == 0) return;
  auto& top = out_.top;
  const auto most = static_cast<size_t>(options_.top);
  const auto less = [&](const FeatureExample& other) {
    return std::abs(other.value) < std::abs(value);
  };
  if (top.size() == most && !less(top.back())) return;
  // Behind those as large: the earlier one in the text comes first.
  top.insert(std::ranges::find_if(top, less), example(from, best_at_, value));
  if (top.size() > most) top.pop_back();
}

FeatureDashboard FeatureExamples::take() {
  if (out_.active == 0) return std::move(out_);
  out_.mean = sum_ / static_cast<double>(out_.active);
  // From the lowest bin in use to the highest.
  const auto n = static_cast<int>(above_.size());
  const auto count = [&](int bin) {
    return bin >= 0 ? above_[static_cast<size_t>(bin)]
                    : below_[static_cast<size_t>(-1 - bin)];
  };
  int first = 0, last = n - 1;
  for (int bin = -1; bin >= -n; --bin)
    if (count(bin) > 0) first = bin;
  while (last > first && count(last) == 0)
    --last;
  auto& bins = out_.activations;
  bins.width = bins_.width();
  bins.from = first * bins.width;
  for (int bin = first; bin <= last; ++bin)
    bins.counts.push_back(count(bin));

  const double width = stretches_.width();
  for (size_t i = intervals_.size(); i-- > 0;) {
    auto& [positions, drawn] = intervals_[i];
    if (out_.intervals.empty() && positions == 0) continue;
    FeatureDashboard::Interval interval{
        .from = static_cast<double>(i) * width,
        .to = static_cast<double>(i + 1) * width,
        .positions = positions};
    for (auto& [number, example] : drawn)
      interval.examples.push_back(std::move(example));
    std::ranges::stable_sort(
        interval.examples, std::greater<>(), [](const auto& it) {
          return std::abs(it.value);
        });
    out_.intervals.push_back(std::move(interval));
  }
  out_.largest = out_.top.front().value;
  return std::move(out_);
}

}  // namespace mlxterp
