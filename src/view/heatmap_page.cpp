#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "mlxterp/view/heatmap.h"
#include "mlxterp/view/html.h"
#include "view/page_parts.h"
#include "view/page_style.h"
#include "view/scale.h"

namespace mlxterp::view {

namespace {

// More cells than this make a page that browsers struggle with.
constexpr size_t most_cells = 60'000;
constexpr size_t most_listed = 5;

constexpr std::string_view heatmap_style = R"(
:root { --warm: #c2410c; --cool: #1d6fa5; --grey: #a8a195; --on-strong: #ffffff; }
@media screen and (prefers-color-scheme: dark) {
  :root { --warm: #fb923c; --cool: #56b4e9; --grey: #57534b; --on-strong: #14110f; }
}
table.heat td { text-align: center; text-overflow: clip; font-variant-numeric: tabular-nums; }
.p0 { background: var(--cold); }
#card .value { margin: 0 0 .1rem; color: var(--ink); font-size: 1.15rem; font-weight: 650; }
#card li { grid-template-columns: 1fr auto; }
#card b { white-space: pre-wrap; overflow-wrap: anywhere; }
)";

// What a cell's card says.
constexpr std::string_view heatmap_script = R"js(
const columns = map.columns.length;
const digits = (x, percent) => x === null ? "NaN" : percent ? (100 * x).toFixed(2) + "%"
  : x !== 0 && (Math.abs(x) < .001 || Math.abs(x) >= 1e5) ? x.toExponential(3) : x.toFixed(4);
const signed = (x, percent) => (x > 0 ? "+" : "") + digits(x, percent);
const inert = new Set(map.inert);
function place(i) {
  const row = map.rows[Math.floor(i / columns)], column = map.columns[i % columns];
  if (map.rowAxis === "layer" && map.columnAxis === "head") return `L${row}H${column}`;
  if (map.rowAxis === "site.layer") {
    const dot = row.lastIndexOf("."), site = row.slice(0, dot), layer = row.slice(dot + 1);
    return map.columnAxis === "head" ? `${site} of L${layer}H${column}` : `${site} of layer ${layer}` + (map.columnAxis ? `, ${map.columnAxis} ${column}` : "");
  }
  return `${map.rowAxis} ${row}` + (map.columnAxis ? `, ${map.columnAxis} ${column}` : "");
}
function fill(card, i) {
  make("p", digits(map.values[i], map.percent), card).className = "value";
  make("p", place(i), card);
  if (inert.has(i)) make("p", map.inertText, card);
  const list = make("ol", "", card);
  const line = (name, text) => { const li = make("li", "", list); make("b", name, li); make("span", text, li); };
  for (const [name, percent, values] of map.details)
    line(name, name.endsWith("change") ? signed(values[i], percent) : digits(values[i], percent));
  for (const [name, value] of map.bounds) line(name, digits(value, false));
}
)js";

// Colours of the steps to one side, where they get strong with light text.
std::string ramp(char side, std::string_view color) {
  std::string css;
  for (int i = 1; i <= Scale::steps; ++i)
    css += fmt::format(
        ".{}{} {{ background: color-mix(in oklab, var({}) {}%, var(--cold));"
        "{} }}\n",
        side,
        i,
        color,
        i * 100 / Scale::steps,
        side != 'o' && i * 10 >= Scale::steps * 6 ? " color: var(--on-strong);"
                                                  : "");
  return css;
}

std::string number(float value) {
  return std::isfinite(value) ? fmt::format("{:.6g}", value) : "null";
}

// The columns that are shown of a map, from the first on.
class Page {
 public:
  explicit Page(const Heatmap& map)
      : map_(map),
        scale_(map),
        all_(map.columns.size()),
        first_(
            all_ -
            std::min(
                all_,
                std::max<size_t>(
                    1, most_cells / std::max<size_t>(map.rows.size(), 1)))) {}

  std::string text() const {
    return page(
        map_.kind + ": " + map_.heading,
        std::string(page_style) + std::string(heatmap_style) +
            ramp('w', "--warm") + ramp('c', "--cool") + ramp('o', "--grey") +
            size().style(),
        page_header(
            map_.kind,
            map_.takeaway.empty() ? map_.heading : map_.takeaway,
            map_.prompts,
            map_.facts,
            "") +
            notice() + legend() + "<div class=\"figure\">\n" + grid() +
            aside() +
            "</div>\n<div id=\"card\" role=\"status\" hidden></div>\n",
        data() + std::string(heatmap_script) + std::string(grid_script));
  }

 private:
  bool inert(size_t cell) const {
    return !map_.inert.empty() && map_.inert[cell];
  }

  std::string cell_text(size_t i) const {
    if (inert(i)) return "";
    return map_.labels.empty() ? scale_.cell(map_.values[i]) : map_.labels[i];
  }

  std::string with_unit(float value) const {
    return scale_.number(value) + (map_.percent ? "%" : "");
  }

  GridSize size() const {
    GridSize out{.rows = map_.rows.size(), .columns = all_ - first_};
    out.row_label = display_width(map_.row_axis);
    for (const auto& row : map_.rows)
      out.row_label = std::max(out.row_label, display_width(visible(row)));
    for (const auto& note : map_.notes)
      out.column_note = std::max(out.column_note, display_width(visible(note)));
    for (size_t i = 0; i < map_.values.size(); ++i)
      out.cell = std::max(out.cell, cell_text(i).size());
    return out;
  }

  std::string notice() const {
    std::string out;
    for (const auto& warning : map_.warnings)
      out += fmt::format("<p class=\"notice\">{}</p>\n", html(warning));
    if (first_ > 0)
      out += fmt::format(
          "<p class=\"notice\">The last {} of {} columns are shown.</p>\n",
          all_ - first_,
          all_);
    if (size().wide())
      out +=
          "<p class=\"notice hint\">Scroll the grid to the left for earlier "
          "columns.</p>\n";
    return out;
  }

  // Only the sides that there are.
  std::string legend() const {
    std::string out = "<div class=\"legend\">";
    for (const auto& [hue, name] : map_.hue_names) {
      out += "<span><span class=\"ramp\">";
      for (int i = 2; i <= Scale::steps; i += 2)
        out += fmt::format("<i class=\"{}{}\"></i>", hue, i);
      out += fmt::format("</span> {}</span>", html(name));
    }
    if (map_.hue_names.empty()) out += signed_ramp();
    return out + marks() +
           "<span class=\"hint\">Point at a cell, tap it to pin its card, or "
           "move with the arrow keys</span></div>\n";
  }

  std::string signed_ramp() const {
    std::string out = "<span>";
    if (scale_.any_below()) {
      out += html(with_unit(map_.neutral - scale_.most()));
      out += " <span class=\"ramp\">";
      for (int i = Scale::steps; i > 0; i -= 2)
        out += fmt::format("<i class=\"c{}\"></i>", i);
    } else {
      out += html(with_unit(map_.neutral)) + " <span class=\"ramp\">";
    }
    out += "<i class=\"p0\"></i>";
    if (scale_.any_above())
      for (int i = 2; i <= Scale::steps; i += 2)
        out += fmt::format("<i class=\"w{}\"></i>", i);
    return out + fmt::format(
                     "</span> {}</span>",
                     html(with_unit(
                         scale_.any_above() ? map_.neutral + scale_.most()
                                            : map_.neutral)));
  }

  std::string marks() const {
    if (std::ranges::count(map_.inert, true) == 0) return "";
    return fmt::format(
        "<span><i class=\"swatch inert\"></i> {}</span>",
        html(map_.inert_name));
  }

  std::string grid() const {
    auto out = size().open() +
               fmt::format(
                   "<table class=\"heat\" role=\"grid\" aria-label=\"{}\">\n"
                   "<thead><tr><th scope=\"col\">{}</th>",
                   html(map_.kind),
                   html(map_.row_axis));
    for (size_t c = first_; c < all_; ++c)
      out += fmt::format(
          "<th scope=\"col\">{}<b>{}</b></th>",
          html(visible(map_.columns[c])),
          map_.notes.empty() ? "" : html(visible(map_.notes[c])));
    out += "</tr></thead>\n<tbody>\n";
    bool entry = true;  // one cell takes the Tab key
    for (size_t r = 0; r < map_.rows.size(); ++r) {
      out += fmt::format(
          "<tr><th scope=\"row\">{}</th>", html(visible(map_.rows[r])));
      for (size_t c = first_; c < all_; ++c, entry = false)
        out += cell(r * all_ + c, entry);
      out += "</tr>\n";
    }
    return out + "</tbody></table></div>\n";
  }

  std::string cell(size_t i, bool entry) const {
    const float value = map_.values[i];
    const int step = scale_.step(value);
    const char hue = !map_.hues.empty() ? map_.hues[i] : step > 0 ? 'w' : 'c';
    const auto kind = !std::isfinite(value) ? std::string("bad")
                      : inert(i)            ? std::string("inert")
                      : step == 0 || hue == '0'
                          ? std::string("p0")
                          : fmt::format("{}{}", hue, std::abs(step));
    return fmt::format(
        "<td tabindex=\"{}\" class=\"{}\">{}</td>",
        entry ? 0 : -1,
        kind,
        html(cell_text(i)));
  }

  std::string largest() const {
    std::string items;
    const size_t kept = all_ - first_;
    for (const size_t i : map_.largest(most_listed)) {
      const size_t row = i / all_, column = i % all_;
      if (column < first_ || map_.values[i] == map_.neutral) continue;
      items += fmt::format(
          "<li><button type=\"button\" data-cell=\"{}\"><span>{}</span><b>{}"
          "</b></button></li>\n",
          row * kept + column - first_,
          html(map_.place(row, column)),
          html(
              map_.labels.empty() ? with_unit(map_.values[i])
                                  : map_.labels[i]));
    }
    if (items.empty()) return "";
    return fmt::format(
        "<h2>Largest</h2>\n<ol class=\"top\">\n{}</ol>\n", items);
  }

  std::string aside() const {
    return fmt::format(
        "<aside>\n{}<p class=\"about\">{}</p>\n</aside>\n",
        largest(),
        html(map_.about));
  }

  // What the script reads, as JSON.
  std::string data() const {
    std::vector<std::string> rows, columns, details, bounds;
    std::vector<size_t> still;
    for (const auto& row : map_.rows)
      rows.push_back(script_string(visible(row)));
    for (size_t c = first_; c < all_; ++c) {
      const auto name = visible(map_.columns[c]);
      columns.push_back(script_string(
          map_.notes.empty()
              ? name
              : fmt::format("{} ({})", name, visible(map_.notes[c]))));
    }
    const size_t kept = all_ - first_;
    for (size_t r = 0; r < map_.rows.size(); ++r)
      for (size_t c = first_; c < all_; ++c)
        if (inert(r * all_ + c)) still.push_back(r * kept + c - first_);
    for (const auto& [name, values, percent] : map_.details)
      details.push_back(fmt::format(
          "[{},{},[{}]]", script_string(name), percent, shown(values)));
    for (const auto& [name, value] : map_.bounds)
      bounds.push_back(
          fmt::format("[{},{}]", script_string(name), number(value)));
    return fmt::format(
        R"(const map = {{"percent":{},"rowAxis":{},"columnAxis":{},
"rows":[{}],"columns":[{}],"inert":[{}],"inertText":{},
"bounds":[{}],"details":[{}],
"values":[{}]}};
)",
        map_.percent,
        script_string(map_.row_axis),
        script_string(map_.column_axis),
        fmt::join(rows, ","),
        fmt::join(columns, ","),
        fmt::join(still, ","),
        script_string(map_.inert_text),
        fmt::join(bounds, ","),
        fmt::join(details, ",\n"),
        shown(map_.values));
  }

  // Those of the columns that are shown.
  std::string shown(const std::vector<float>& values) const {
    std::string out;
    for (size_t r = 0; r < map_.rows.size(); ++r)
      for (size_t c = first_; c < all_; ++c)
        out += fmt::format(
            "{}{}", out.empty() ? "" : ",", number(values[r * all_ + c]));
    return out;
  }

  const Heatmap& map_;
  Scale scale_;
  size_t all_, first_;
};

}  // namespace

std::string heatmap_page(const Heatmap& map) {
  return Page(map).text();
}

}  // namespace mlxterp::view
