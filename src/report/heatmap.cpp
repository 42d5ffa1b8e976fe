#include "mlxterp/report/heatmap.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "report/takeaway.h"

namespace mlxterp::report {

namespace {

// Effects below this are not worth a headline.
constexpr float little = 0.05f;

struct ToText {
  std::string operator()(std::nullptr_t) const { return ""; }
  std::string operator()(bool yes) const { return yes ? "yes" : ""; }
  std::string operator()(const std::string& text) const { return text; }
  std::string operator()(const auto& value) const {
    return fmt::format("{}", value);
  }
  std::string operator()(const std::vector<int>& all) const {
    return fmt::format("{}", fmt::join(all, ", "));
  }
  std::string operator()(const std::vector<std::vector<int>>&) const {
    return "";
  }
  std::string operator()(const std::vector<std::string>& all) const {
    return fmt::format("{}", fmt::join(all, ", "));
  }
};

std::string capitalised(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] -= 'a' - 'A';
  return text;
}

}  // namespace

std::string Heatmap::place(size_t row, size_t column) const {
  const bool sites = row_axis == "site.layer";
  const auto dot = sites ? rows[row].rfind('.') : std::string::npos;
  const auto site =
      sites ? fmt::format("{} of ", rows[row].substr(0, dot)) : std::string();
  const auto axis = sites ? std::string("layer") : row_axis;
  const auto name = sites ? rows[row].substr(dot + 1) : rows[row];
  if (axis == "layer" && column_axis == "head")
    return fmt::format("{}L{}H{}", site, name, columns[column]);
  auto text = fmt::format("{}{} {}", site, axis, name);
  if (column_axis.empty()) return text;
  text += fmt::format(", {} {}", column_axis, columns[column]);
  if (!notes.empty()) text += fmt::format(" ({})", notes[column]);
  return text;
}

std::vector<size_t> Heatmap::largest(size_t n) const {
  std::vector<size_t> all;
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isnan(values[i]) && (inert.empty() || !inert[i]) &&
        (hues.empty() || hues[i] == 'w' || hues[i] == 'c'))
      all.push_back(i);
  n = std::min(n, all.size());
  std::ranges::partial_sort(
      all, all.begin() + static_cast<long>(n), [this](size_t a, size_t b) {
        const float x = std::abs(values[a] - neutral),
                    y = std::abs(values[b] - neutral);
        return x != y ? x > y : a < b;
      });
  all.resize(n);
  return all;
}

std::string percents(double share) {
  const double value = 100 * share, size = std::abs(value);
  return size >= 9.95  ? fmt::format("{:.0f}%", value)
         : size >= 0.1 ? fmt::format("{:.1f}%", value)
                       : fmt::format("{:.1g}%", value);
}

std::string written(float value, bool sign) {
  return sign ? fmt::format("{:+.3g}", value) : fmt::format("{:.3g}", value);
}

std::string takeaway(const Heatmap& map) {
  const auto best = map.largest(1);
  if (best.empty() || map.details.empty() || map.bounds.empty()) return "";
  const auto columns = map.columns.size();
  const auto size = [&](size_t i) {
    return std::abs(map.values[i] - map.neutral);
  };
  if (size(best[0]) == 0) return "No cell has any effect.";
  const auto place = map.place(best[0] / columns, best[0] % columns);
  const auto& detail = map.details.front();
  const float from = map.bounds[0].second, to = detail.values[best[0]];
  const bool two_runs = map.bounds.size() > 1;
  const float other = two_runs ? map.bounds[1].second : from;
  const float effect = two_runs ? (to - from) / (other - from) : 0;
  const bool sign = std::min({from, to, other}) < 0;
  auto change = fmt::format(
      "{} goes from {} to {}",
      detail.name,
      written(from, sign),
      written(to, sign));
  if (two_runs && std::isfinite(effect))
    change += fmt::format(
        ", {} the {} run's {}",
        effect < 0
            ? std::string("away from")
            : fmt::format(
                  "{} of the way to", percents(static_cast<double>(effect))),
        map.bounds[1].first,
        written(other, sign));
  if (two_runs && std::abs(effect) < little)
    return fmt::format(
        "No cell has much effect. The largest is at {}: {}.", place, change);
  size_t half = 0;
  for (size_t i = 0; i < map.values.size(); ++i)
    half += size(i) >= size(best[0]) / 2;
  return fmt::format(
      "{} has the largest effect: {}. {}",
      map.row_axis.starts_with("site") ? place : capitalised(place),
      change,
      half == 1
          ? "No other cell reaches half of it."
          : fmt::format(
                "{} of {} cells reach half of it.", half, map.values.size()));
}

std::vector<std::pair<std::string, std::string>> shown(const Facts& facts) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& [name, value] : facts) {
    auto text = std::visit(ToText{}, value);
    if (name == "direction")
      text += text == "noise" ? " (corrupted values into the clean run)"
                              : " (clean values into the corrupted run)";
    auto words = name;
    std::ranges::replace(words, '_', ' ');
    if (!text.empty()) out.emplace_back(std::move(words), std::move(text));
  }
  return out;
}

}  // namespace mlxterp::report
