#include "view/scale.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace mlxterp::view {

namespace {

constexpr float little = 0.02f;  // of the whole
constexpr int most_decimals = 6;

// Decimals that leave `largest` two digits, at least `least`.
int decimals(float largest, int least) {
  int n = least;
  for (float unit = least > 1 ? 0.1f : 10; largest < unit && n < most_decimals;
       unit /= 10)
    ++n;
  return n;
}

}  // namespace

Scale::Scale(const report::Heatmap& map)
    : percent_(map.percent), neutral_(map.neutral) {
  for (const float value : map.values) {
    if (!std::isfinite(value)) continue;
    most_ = std::max(most_, std::abs(value - neutral_));
    largest_ = std::max(largest_, std::abs(value));
    below_ = below_ || value < neutral_;
    above_ = above_ || value > neutral_;
  }
  if (!(most_ > 0)) most_ = 1;
}

std::string Scale::number(float value) const {
  if (std::isnan(value)) return "NaN";
  if (!std::isfinite(value)) return value > 0 ? "inf" : "-inf";
  auto text =
      percent_
          ? fmt::format("{:.{}f}", value * 100, decimals(largest_ * 100, 0))
      : largest_ >= 1000 ? fmt::format("{:.2g}", value)
      : largest_ >= 100  ? fmt::format("{:.0f}", value)
      : largest_ >= 10   ? fmt::format("{:.1f}", value)
                         : fmt::format("{:.{}f}", value, decimals(largest_, 2));
  // Minus nothing is nothing.
  if (text.find_first_not_of("-0.") == std::string::npos && text[0] == '-')
    text.erase(0, 1);
  return text;
}

std::string Scale::cell(float value) const {
  if (!std::isfinite(value)) return number(value);
  const float whole = percent_ ? (most_ >= 0.1f ? 1 : most_) : most_;
  if (std::abs(value - neutral_) < little * whole) return "";
  auto text = number(value);
  const bool nothing = text.find_first_not_of("-0.") == std::string::npos;
  return nothing && neutral_ == 0 ? "" : text;
}

int Scale::step(float value) const {
  if (!std::isfinite(value) || cell(value).empty()) return 0;
  const float share = (value - neutral_) / most_;
  return std::clamp(
      static_cast<int>(std::lround(share * steps)), -steps, steps);
}

}  // namespace mlxterp::view
