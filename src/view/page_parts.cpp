#include "view/page_parts.h"

#include <fmt/format.h>

#include <algorithm>

#include "mlxterp/view/html.h"

namespace mlxterp::view {

namespace {

// Of a longer prompt its end is shown and what stands around marked tokens.
constexpr size_t short_prompt = 40, around_marked = 8, end_of_marked = 12;
// Pixels that are left of 1280 for cells: beside the five largest, or alone.
constexpr size_t room_for_numbers = 880, room_for_texts = 1170;
constexpr size_t narrowest_number = 7, narrowest_text = 52;
// Of a character, in ems.
constexpr double character = 0.62;

std::string prompt_line(const report::PromptLine& line) {
  auto out =
      fmt::format("<p class=\"prompt\"><span>{}</span>", html(line.name));
  const size_t n = line.tokens.size();
  const auto shown = [&](size_t i) {
    if (n <= short_prompt) return true;
    if (line.marked.empty()) return i + short_prompt >= n;
    return i + end_of_marked >= n ||
           std::ranges::any_of(line.marked, [&](size_t m) {
             return i + around_marked >= m && i <= m + around_marked;
           });
  };
  bool gap = false;
  for (size_t i = 0; i < n; ++i) {
    if (!shown(i)) {
      if (!gap) out += "…";
      gap = true;
      continue;
    }
    gap = false;
    const bool marked = std::ranges::count(line.marked, i) > 0;
    out += marked ? fmt::format("<mark>{}</mark>", html(line.tokens[i]))
                  : html(line.tokens[i]);
  }
  return out + "</p>\n";
}

}  // namespace

std::string page_header(
    std::string_view kind,
    std::string_view headline,
    const std::vector<report::PromptLine>& prompts,
    const NamedTexts& facts,
    std::string_view about) {
  auto out = fmt::format(
      "<header>\n<p class=\"eyebrow\">{}</p>\n<h1>{}</h1>\n",
      html(kind),
      html(headline));
  for (const auto& line : prompts)
    out += prompt_line(line);
  out += "<dl class=\"facts\">\n";
  for (const auto& [name, text] : facts)
    out += fmt::format(
        "<div><dt>{}</dt><dd>{}</dd></div>\n",
        html(name),
        name == "command" ? fmt::format("<code>{}</code>", html(text))
                          : html(text));
  out += fmt::format(
      "<div><dt>version</dt><dd>mlxterp {}</dd></div>\n</dl>\n",
      MLXTERP_VERSION);
  if (!about.empty()) out += fmt::format("<p class=\"about\">{}</p>\n", about);
  return out + "</header>\n";
}

bool GridSize::wide() const {
  return columns * (texts ? narrowest_text : narrowest_number) >
         (texts ? room_for_texts : room_for_numbers);
}

std::string GridSize::open() const {
  return fmt::format("<div class=\"grid{}\">", wide() ? " wide" : "");
}

std::string GridSize::style() const {
  const auto n = std::max<size_t>(columns, 1);
  const double label = 0.45 + 0.45 * static_cast<double>(row_label);  // rem
  const auto chars = static_cast<double>(cell);
  // What stands above the rows and below; names that stand upright take more.
  const bool upright = !texts && n > room_for_numbers / 51;
  const double header =
      (texts ? 24 : 22) +
      (upright ? 0.4 * static_cast<double>(std::min<size_t>(column_note, 15))
               : 0);
  auto css = fmt::format(
      ":root {{ --row: clamp(11px, calc((100vh - {:.1f}rem) / {} - 1px), "
      "26px); "
      "--text: min(12px, calc(var(--row) * .72)); }}\n"
      "@media print {{ :root {{ --row: clamp(7px, calc(150mm / {}), 18px); }} "
      "}}\n"
      "th:first-child {{ width: {:.2f}rem; }}\n",
      header,
      std::max<size_t>(rows, 1),
      std::max<size_t>(rows, 1),
      label);
  // As wide as cells like to be, and narrower where the page is.
  css += fmt::format(
      ".grid {{ flex: 0 1 {:.1f}rem; }}\n",
      label + static_cast<double>(n) * (texts ? 8.5 : 4.2));
  if (wide())
    css += fmt::format(
        "table {{ min-width: calc({} * {}px + {:.2f}rem); }}\n",
        n,
        (texts ? narrowest_text : narrowest_number) + 1,
        label);
  // Columns' names stand upright where they would be cut.
  if (!texts)
    css += fmt::format(
        "@container (max-width: {:.1f}rem) {{ thead th:not(:first-child) {{ "
        "padding: .2rem 0; }} thead b {{ margin: 0 auto; max-height: 7rem; "
        "writing-mode: vertical-rl; transform: rotate(180deg); }} }}\n",
        label + static_cast<double>(n) * 3.4);
  const auto below = [&](double n_chars, double font, std::string_view rule) {
    css += fmt::format(
        "@container (max-width: calc({} * {:.0f}px + {:.2f}rem)) {{ {} }}\n",
        n,
        n_chars * character * font + 4,
        label,
        rule);
  };
  const auto digits = static_cast<double>(fmt::format("{}", n).size());
  below(
      digits,
      11,
      "thead th:not(:first-child) { font-size: 8.5px; line-height: 1.1; }");
  below(digits - 0.5, 8, "thead th:not(:first-child) { font-size: 0; }");
  if (texts) return css;
  below(chars, 12, "td { padding: 0; font-size: min(9px, var(--text)); }");
  below(chars, 8.2, "td { font-size: 0; }");
  return css;
}

const std::string_view grid_script = R"js(
const card = document.getElementById("card");
const table = document.querySelector("table");
const cells = [...table.querySelectorAll("td")];
let pinned = null;
function make(tag, text, parent) {
  const element = document.createElement(tag);
  element.textContent = text;
  parent.append(element);
  return element;
}
function show(cell) {
  card.replaceChildren();
  fill(card, cells.indexOf(cell));
  card.hidden = false;
  const box = cell.getBoundingClientRect(), own = card.getBoundingClientRect();
  const below = box.bottom + 8 + own.height < innerHeight;
  const top = below ? box.bottom + 8 : Math.max(8, box.top - own.height - 8);
  const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - own.width - 8));
  card.style.left = left + scrollX + "px";
  card.style.top = top + scrollY + "px";
}
function pin(cell) {
  if (pinned) pinned.classList.remove("pinned");
  pinned = cell;
  card.classList.toggle("pinned", cell !== null);
  if (!cell) { card.hidden = true; return; }
  cell.classList.add("pinned");
  show(cell);
}
const cellOf = target => target instanceof Element ? target.closest("td") : null;
const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
function go(cell) {
  for (const each of cells) if (each.tabIndex === 0) each.tabIndex = -1;
  cell.tabIndex = 0;
  cell.focus({ preventScroll: false });
}
table.addEventListener("pointerover", e => {
  if (pinned || e.pointerType === "touch") return;
  const cell = cellOf(e.target);
  cell ? show(cell) : card.hidden = true;
});
table.addEventListener("pointerleave", e => { if (!pinned && e.pointerType !== "touch") card.hidden = true; });
table.addEventListener("focusin", e => { const cell = cellOf(e.target); if (cell && !pinned) show(cell); });
table.addEventListener("focusout", () => { if (!pinned) card.hidden = true; });
document.addEventListener("click", e => {
  const button = e.target.closest("button[data-cell]");
  if (button) { const cell = cells[button.dataset.cell]; go(cell); return pin(cell); }
  if (card.contains(e.target)) return;
  const cell = cellOf(e.target);
  pin(cell && cell !== pinned ? cell : null);
});
document.addEventListener("keydown", e => { if (e.key === "Escape") pin(null); });
table.addEventListener("keydown", e => {
  const i = cells.indexOf(document.activeElement), to = i + moves[e.key];
  if (i >= 0 && (e.key === "Enter" || e.key === " ")) {
    e.preventDefault();
    return pin(cells[i] === pinned ? null : cells[i]);
  }
  if (i < 0 || !(to in cells)) return;
  if (Math.abs(moves[e.key]) === 1 && Math.floor(to / columns) !== Math.floor(i / columns)) return;
  e.preventDefault();
  if (pinned) pin(null);
  go(cells[to]);
});
const scroller = document.querySelector(".grid.wide");
if (scroller) {
  scroller.scrollLeft = scroller.scrollWidth;
  scroller.addEventListener("scroll", () => { pinned ? show(pinned) : card.hidden = true; });
}
)js";

}  // namespace mlxterp::view
