#include "mlxterp/view/heatmap.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "mlxterp/view/html.h"
#include "view/page_style.h"

namespace mlxterp::view {

namespace {

// Steps of colour to either side of zero: classes, since the page's policy
// allows no style attributes.
constexpr int steps = 12;
// More cells than this make a page that browsers struggle with.
constexpr size_t most_cells = 60'000;

constexpr std::string_view heatmap_style = R"(
:root { --warm: #c2410c; --cool: #1d6fa5; --on-strong: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --warm: #fb923c; --cool: #56b4e9; --on-strong: #14110f; }
}
.scroll { width: fit-content; max-width: 100%; }
table.heat { width: auto; }
table.heat td { min-width: 2.9rem; text-align: right; font-variant-numeric: tabular-nums; }
table.heat thead th { text-align: right; }
#card b { display: block; margin-bottom: .3rem; font-size: 1.15rem; font-weight: 650; }
)";

constexpr std::string_view heatmap_script = R"js(
const card = document.getElementById("card");
const table = document.querySelector("table");
const cells = [...table.querySelectorAll("td")];
const columns = map.columns.length;
function show(cell) {
  const i = cells.indexOf(cell), row = Math.floor(i / columns), column = i % columns;
  const value = map.values[i];
  card.replaceChildren();
  const number = document.createElement("b");
  number.textContent = value === null ? "NaN" : map.percent ? (100 * value).toFixed(2) + "%" : value.toFixed(4);
  const where = document.createElement("p");
  where.textContent = `${map.rowAxis} ${map.rows[row]}, ${map.columnAxis} ${map.columns[column]}`;
  card.append(number, where);
  card.hidden = false;
  const box = cell.getBoundingClientRect(), own = card.getBoundingClientRect();
  const below = box.bottom + 8 + own.height < innerHeight;
  card.style.left = Math.max(8, Math.min(box.left, innerWidth - own.width - 8)) + "px";
  card.style.top = Math.max(8, below ? box.bottom + 8 : box.top - own.height - 8) + "px";
}
const hide = () => { card.hidden = true; };
const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
table.addEventListener("mouseover", e => { const c = e.target.closest("td"); c ? show(c) : hide(); });
table.addEventListener("mouseleave", hide);
table.addEventListener("focusin", e => { const c = e.target.closest("td"); if (c) show(c); });
table.addEventListener("focusout", hide);
document.addEventListener("scroll", hide, true);
table.addEventListener("keydown", e => {
  if (e.key === "Escape") return hide();
  const i = cells.indexOf(document.activeElement), to = i + moves[e.key];
  if (i < 0 || !(to in cells)) return;
  if (Math.abs(moves[e.key]) === 1 && Math.floor(to / columns) !== Math.floor(i / columns)) return;
  e.preventDefault();
  cells[i].tabIndex = -1;
  cells[to].tabIndex = 0;
  cells[to].focus();
});
)js";

// The largest magnitude, 1 where there is none: what a full colour means.
float largest_magnitude(const Heatmap& map) {
  float most = 0;
  for (const float value : map.values)
    if (std::isfinite(value)) most = std::max(most, std::abs(value));
  return most > 0 ? most : 1;
}

std::string number(float value, bool percent, float most) {
  if (std::isnan(value)) return "NaN";
  if (!std::isfinite(value)) return value > 0 ? "inf" : "-inf";
  auto text = percent        ? fmt::format("{:.0f}", value * 100)
              : most >= 1000 ? fmt::format("{:.2g}", value)
              : most >= 100  ? fmt::format("{:.0f}", value)
              : most >= 10   ? fmt::format("{:.1f}", value)
                             : fmt::format("{:.2f}", value);
  // Minus nothing is nothing.
  if (text.find_first_not_of("-0.") == std::string::npos && text[0] == '-')
    text.erase(0, 1);
  return text;
}

std::string ramp() {
  std::string css;
  for (const auto& [side, color] :
       {std::pair{"w", "--warm"}, std::pair{"c", "--cool"}})
    for (int i = 1; i <= steps; ++i)
      css += fmt::format(
          ".{}{} {{ background: color-mix(in oklab, var({}) {}%, var(--cold));"
          "{} }}\n",
          side,
          i,
          color,
          i * 100 / steps,
          i * 10 >= steps * 6 ? " color: var(--on-strong);" : "");
  return css;
}

std::string cell_class(float value, float most) {
  if (!std::isfinite(value)) return "bad";
  const int step = std::clamp(
      static_cast<int>(std::lround(std::abs(value) / most * steps)), 0, steps);
  if (step == 0) return "p0";
  return fmt::format("{}{}", value > 0 ? 'w' : 'c', step);
}

}  // namespace

std::string heatmap_text(const Heatmap& map, const Terminal& terminal) {
  constexpr size_t gap = 1;
  const size_t rows = map.rows.size(), columns = map.columns.size();
  const float most = largest_magnitude(map);
  size_t label = display_width(map.row_axis), width = 3;
  for (const auto& row : map.rows)
    label = std::max(label, display_width(visible(row)));
  for (const float value : map.values)
    width = std::max(width, number(value, map.percent, most).size());
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
  const size_t first = columns - std::min(columns, fits);

  std::string out;
  if (!map.about.empty()) out += escape(map.about) + "\n\n";
  if (first > 0)
    out += fmt::format(
        "The last {} of {} columns; a wider terminal or --html shows all.\n",
        columns - first,
        columns);
  const auto heading = [&](const std::string& axis,
                           const std::vector<std::string>& names) {
    auto line = fit(axis, label);
    for (size_t c = first; c < columns; ++c) {
      line.append(gap, ' ');
      line.append(fit(visible(names[c]), width, Align::right));
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += toned(line, Tone::faint, terminal) + '\n';
  };
  heading(map.row_axis, map.columns);
  if (!map.notes.empty()) heading("", map.notes);
  for (size_t r = 0; r < rows; ++r) {
    out += fit(visible(map.rows[r]), label, Align::right);
    for (size_t c = first; c < columns; ++c) {
      const float value = map.values[r * columns + c];
      const float share = std::abs(value) / most;
      const auto tone = !(share < 0.5f) ? Tone::accent
                        : share < 0.05f ? Tone::faint
                                        : Tone::plain;
      out.append(gap, ' ');
      out += toned(
          fit(number(value, map.percent, most), width, Align::right),
          tone,
          terminal);
    }
    out += '\n';
  }
  return out;
}

std::string heatmap_page(const Heatmap& map) {
  const size_t all = map.columns.size();
  const size_t kept = std::min(
      all,
      std::max<size_t>(1, most_cells / std::max<size_t>(map.rows.size(), 1)));
  const size_t first = all - kept;
  const float most = largest_magnitude(map);

  const auto with_unit = [&](float value) {
    return fmt::format(
        "{}{}", number(value, map.percent, most), map.percent ? "%" : "");
  };

  std::string body = fmt::format(
      "<header>\n<p class=\"eyebrow\">{}</p>\n<h1>{}</h1>\n"
      "<p class=\"about\">{}</p>\n</header>\n",
      html(map.kind),
      html(map.heading),
      html(map.about));
  if (first > 0)
    body += fmt::format(
        "<p class=\"notice\">The last {} of {} columns are shown.</p>\n",
        kept,
        all);
  body += fmt::format(
      "<div class=\"legend\"><span>{} <span class=\"ramp\">",
      html(with_unit(-most)));
  for (int i = steps; i > 0; i -= 2)
    body += fmt::format("<i class=\"c{}\"></i>", i);
  body += "<i class=\"p0\"></i>";
  for (int i = 2; i <= steps; i += 2)
    body += fmt::format("<i class=\"w{}\"></i>", i);
  body += fmt::format(
      "</span> {}</span><span>Hover a cell, or move with the arrow keys"
      "</span></div>\n",
      html(with_unit(most)));

  body += fmt::format(
      "<div class=\"scroll\"><table class=\"heat\" role=\"grid\" "
      "aria-label=\"{}\">\n<thead><tr><th scope=\"col\">{}</th>",
      html(map.kind),
      html(map.row_axis));
  std::vector<std::string> columns, rows, values;
  for (size_t c = first; c < all; ++c) {
    const auto note = map.notes.empty() ? "" : visible(map.notes[c]);
    const auto name = visible(map.columns[c]);
    body += fmt::format(
        "<th scope=\"col\">{}<b>{}</b></th>", html(name), html(note));
    columns.push_back(
        script_string(note.empty() ? name : fmt::format("{} {}", name, note)));
  }
  body += "</tr></thead>\n<tbody>\n";
  bool entry = true;  // one cell takes the Tab key
  for (size_t r = 0; r < map.rows.size(); ++r) {
    rows.push_back(script_string(visible(map.rows[r])));
    body += fmt::format(
        "<tr><th scope=\"row\">{}</th>", html(visible(map.rows[r])));
    for (size_t c = first; c < all; ++c) {
      const float value = map.values[r * all + c];
      body += fmt::format(
          "<td tabindex=\"{}\" class=\"{}\">{}</td>",
          entry ? 0 : -1,
          cell_class(value, most),
          number(value, map.percent, most));
      entry = false;
      values.push_back(
          std::isfinite(value) ? fmt::format("{:.6g}", value) : "null");
    }
    body += "</tr>\n";
  }
  body +=
      "</tbody></table></div>\n"
      "<div id=\"card\" role=\"status\" hidden></div>\n";

  const auto data = fmt::format(
      R"(const map = {{"percent":{},"rowAxis":{},"columnAxis":{},"rows":[{}],"columns":[{}],
"values":[{}]}};
)",
      map.percent,
      script_string(map.row_axis),
      script_string(map.column_axis),
      fmt::join(rows, ","),
      fmt::join(columns, ","),
      fmt::join(values, ","));
  return page(
      map.kind + ": " + map.heading,
      std::string(page_style) + std::string(heatmap_style) +
          ".p0 { background: var(--cold); }\n" + ramp(),
      body,
      data + std::string(heatmap_script));
}

}  // namespace mlxterp::view
