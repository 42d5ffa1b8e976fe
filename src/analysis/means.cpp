#include "analysis/means.h"

#include <algorithm>
#include <cmath>

#include "analysis/any_model.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp {

void Averages::add(
    const std::vector<float>& cells,
    const std::string& metric,
    const char* who) {
  for (size_t c = 0; c < cells.size(); ++c) {
    const auto value = static_cast<double>(cells[c]);
    if (!std::isfinite(value))
      fail(
          ErrorKind::usage,
          "[{}] the metric '{}' is {} in cell {} of sweep {}; does it divide "
          "by zero, an edit of the model make such values, or the model "
          "overflow in this precision?",
          who,
          printable(metric),
          value,
          c,
          sweeps_);
    sums_[c] += value;
    squares_[c] += value * value;
  }
  ++sweeps_;
}

void Averages::add_inert(const std::vector<bool>& cells) {
  if (cells.empty()) return;
  if (++with_inert_ == 1) inert_ = cells;
  for (size_t c = 0; c < cells.size(); ++c)
    inert_[c] = inert_[c] && cells[c];
}

void Averages::put(Sweep& sweep) const {
  if (with_inert_ == sweeps_) sweep.inert = inert_;
  const auto n = static_cast<double>(sweeps_);
  for (size_t c = 0; c < sums_.size(); ++c) {
    const double mean = sums_[c] / n;
    sweep.metric.push_back(static_cast<float>(mean));
    sweep.spread.push_back(static_cast<float>(
        std::sqrt(std::max(0.0, squares_[c] / n - mean * mean))));
  }
}

std::vector<mx::array> position_means(
    const InterpretableModel& model,
    const Inputs::Rows& prompts,
    const std::vector<std::string>& sites,
    const Progress& progress) {
  // Padding is known to be harmless in a Decoder only.
  const size_t batch = decoder_of(model) ? 16 : 1;
  size_t longest = 0;
  for (const auto& prompt : prompts)
    longest = std::max(longest, prompt.size());
  std::vector<std::optional<mx::array>> sums(sites.size());
  std::vector<float> counts(longest);
  for (size_t begin = 0; begin < prompts.size(); begin += batch) {
    if (progress)
      progress(
          "Reading the data",
          static_cast<double>(begin) / static_cast<double>(prompts.size()));
    const auto end = std::min(prompts.size(), begin + batch);
    const Inputs::Rows some(
        prompts.begin() + static_cast<long>(begin),
        prompts.begin() + static_cast<long>(end));
    const auto run = model.run(some, {.save = sites});
    std::vector<float> real;  // 1 at each prompt's own positions, [row, pos]
    size_t width = 0;
    for (const auto& prompt : some)
      width = std::max(width, prompt.size());
    for (const auto& prompt : some)
      for (size_t p = 0; p < width; ++p) {
        real.push_back(p < prompt.size() ? 1.0f : 0.0f);
        counts[p] += real.back();
      }
    const int rows = static_cast<int>(some.size()), n = static_cast<int>(width);
    for (size_t s = 0; s < sites.size(); ++s) {
      const auto value = mx::astype(run[sites[s]], mx::float32);
      mx::Shape shape(value.ndim(), 1);
      shape[0] = rows;
      shape[1] = n;
      auto sum = mx::sum(mx::multiply(value, mx::array(real.data(), shape)), 0);
      // Batches of other widths add up at the positions they have.
      const int missing = static_cast<int>(longest) - n;
      sum =
          mx::pad(sum, {0}, mx::Shape{0}, mx::Shape{missing}, mx::array(0.0f));
      if (sums[s]) sum = mx::add(sum, *sums[s]);
      sum.eval();
      sums[s] = sum;
    }
  }
  std::vector<mx::array> means;
  for (const auto& sum : sums) {
    mx::Shape shape(sum->ndim(), 1);
    shape[0] = static_cast<int>(longest);
    means.push_back(mx::divide(*sum, mx::array(counts.data(), shape)));
    means.back().eval();
  }
  return means;
}

void check_length(const Readout& metric, size_t length, const char* who) {
  metric.position_in(static_cast<int>(length));
  if (metric.kind == Metric::Kind::loss && length < 2)
    fail(
        ErrorKind::usage,
        "[{}] the loss needs a prompt of at least two tokens",
        who);
}

}  // namespace mlxterp
