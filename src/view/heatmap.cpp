#include "mlxterp/view/heatmap.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "view/scale.h"

namespace mlxterp::view {

std::string heatmap_text(const Heatmap& map, const Terminal& terminal) {
  constexpr size_t gap = 1;
  const size_t rows = map.rows.size(), columns = map.columns.size();
  const Scale scale(map);
  size_t label = display_width(map.row_axis), width = 3;
  for (const auto& row : map.rows)
    label = std::max(label, display_width(visible(row)));
  const auto cell_text = [&](size_t cell) {
    if (!map.inert.empty() && map.inert[cell]) return std::string();
    return map.labels.empty() ? scale.number(map.values[cell])
                              : map.labels[cell];
  };
  for (size_t cell = 0; cell < map.values.size(); ++cell)
    width = std::max(width, cell_text(cell).size());
  // Wider for the names of columns, where there is room.
  const size_t room = (std::max(terminal.width, label + 1) - label - 1) /
                      std::max<size_t>(columns, 1);
  size_t widest = width;
  for (const auto* names : {&map.columns, &map.notes})
    for (const auto& column : *names)
      widest = std::max(widest, display_width(visible(column)));
  width = std::max(width, std::min(widest, room > gap ? room - gap : 0));
  const size_t fits = std::max<size_t>(
      1, (std::max(terminal.width, label) - label) / (width + gap));
  // Heads go on below; of positions the last ones matter most.
  const bool folded = map.column_axis == "head";
  const size_t first = folded ? 0 : columns - std::min(columns, fits);

  std::string out;
  if (!map.about.empty()) out += paragraph(map.about, terminal) + "\n\n";
  if (first > 0)
    out += fmt::format(
        "The last {} of {} columns; a wider terminal or --html shows all.\n",
        columns - first,
        columns);
  const auto heading = [&](const std::string& axis,
                           const std::vector<std::string>& names,
                           size_t begin,
                           size_t end) {
    auto line = fit(axis, label);
    for (size_t c = begin; c < end; ++c) {
      line.append(gap, ' ');
      line.append(fit(visible(names[c]), width, Align::right));
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += toned(line, Tone::faint, terminal) + '\n';
  };
  const auto row = [&](size_t r, size_t begin, size_t end) {
    out += fit(visible(map.rows[r]), label, Align::right);
    for (size_t c = begin; c < end; ++c) {
      const size_t cell = r * columns + c;
      const float share =
          std::abs(map.values[cell] - map.neutral) / scale.most();
      const auto tone = !(share < 0.5f) ? Tone::accent
                        : share < 0.05f ? Tone::faint
                                        : Tone::plain;
      out.append(gap, ' ');
      out += toned(fit(cell_text(cell), width, Align::right), tone, terminal);
    }
    out += '\n';
  };
  for (size_t begin = first; begin < columns; begin += fits) {
    const size_t end = std::min(columns, begin + fits);
    if (begin > first) out += '\n';
    heading(map.row_axis, map.columns, begin, end);
    if (!map.notes.empty()) heading("", map.notes, begin, end);
    for (size_t r = 0; r < rows; ++r)
      row(r, begin, end);
  }
  return out;
}

std::string largest_text(const Heatmap& map, const Terminal& terminal) {
  constexpr size_t listed = 5, before = 9;
  if (map.values.size() <= 2 * listed) return "";
  const Scale scale(map);
  const auto columns = map.columns.size();
  std::string out;
  for (const auto cell : map.largest(listed)) {
    if (map.values[cell] == map.neutral) continue;
    const auto place = visible(map.place(cell / columns, cell % columns));
    const auto room = std::max(terminal.width, before + 1) - before;
    out += fmt::format(
        "{:>6}{}  {}\n",
        scale.number(map.values[cell]),
        map.percent ? "%" : "",
        fit(place, std::min(display_width(place), room)));
  }
  return out.empty() ? out : "largest:\n" + out;
}

}  // namespace mlxterp::view
