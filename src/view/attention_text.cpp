#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "mlxterp/view/attention.h"
#include "mlxterp/view/heatmap.h"

namespace mlxterp::view {

namespace {

// Sources of one token that are worth a place in a line.
constexpr size_t most_sources = 5;
constexpr float least_share = 0.02f;
// What a column of a pattern takes at least: three digits and a space.
constexpr size_t narrowest_column = 4;

size_t size(int n) {
  return static_cast<size_t>(n);
}

std::string token(const report::AttentionReport& report, size_t position) {
  return fmt::format("{}:{}", position, visible(report.tokens[position].text));
}

// "0:When 62%, 9: John 21%": what `dest` looks at, the strongest first.
std::string sources(
    const report::AttentionReport& report, int head, size_t dest) {
  std::vector<size_t> all(dest + 1);
  std::iota(all.begin(), all.end(), size_t{0});
  std::ranges::stable_sort(all, std::greater<>(), [&](size_t source) {
    return report.result.at(head, dest, source);
  });
  std::string out;
  for (size_t i = 0; i < std::min(all.size(), most_sources); ++i) {
    const float share = report.result.at(head, dest, all[i]);
    if (i > 0 && share < least_share) break;
    out += fmt::format(
        "{}{} {}", i > 0 ? ", " : "", token(report, all[i]), percent(share));
  }
  return out;
}

std::string heads_text(
    const report::AttentionReport& report, const Terminal& terminal) {
  using enum Align;
  const auto& found = report.result;
  const size_t last = found.ids.size() - 1;
  Table table(
      {{"head", left},
       {"first", right},
       {"previous", right},
       {"itself", right},
       {"bits", right},
       {fmt::format("\"{}\" looks at", visible(report.tokens[last].text)),
        left}});
  for (int j = 0; j < found.entropy.heads; ++j) {
    const Head head{found.layer, j};
    table.add(
        {name(head),
         percent(found.first_token.at(head)),
         percent(found.previous_token.at(head)),
         percent(found.current_token.at(head)),
         fmt::format("{:.1f}", found.entropy.at(head)),
         sources(report, j, last)});
  }
  return table.text(terminal);
}

std::string sources_text(
    const report::AttentionReport& report, const Terminal& terminal) {
  Table table({{"from", Align::left}, {"strongest sources", Align::left}});
  for (size_t i = 0; i < report.tokens.size(); ++i)
    table.add({token(report, i), sources(report, *report.head, i)});
  return table.text(terminal);
}

}  // namespace

std::string attention_text(
    const report::AttentionReport& report, const Terminal& terminal) {
  if (report.result.layer < 0)
    return heatmap_text(report::overview(report), terminal);
  if (!report.head) return heads_text(report, terminal);
  const auto map = report::pattern(report, *report.head);
  size_t label = 0;
  for (const auto& row : map.rows)
    label = std::max(label, display_width(visible(row)));
  const auto text = escape(map.takeaway) + "\n";
  if (label + size(static_cast<int>(map.columns.size())) * narrowest_column <=
      terminal.width)
    return text + heatmap_text(map, terminal);
  return text + "\n" + sources_text(report, terminal);
}

}  // namespace mlxterp::view
