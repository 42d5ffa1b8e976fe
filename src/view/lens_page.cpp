#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <set>

#include "mlxterp/view/html.h"
#include "mlxterp/view/lens.h"
#include "view/page_parts.h"
#include "view/page_style.h"

namespace mlxterp::view {

namespace {

// More cells than this make a page that browsers struggle with.
constexpr size_t most_cells = 20'000;
// Probabilities are coloured in this many steps: classes, since the page's
// policy allows no style attributes.
constexpr int steps = 20;

// What a cell's card says.
constexpr std::string_view script = R"js(
const columns = lens.positions.length;
const percent = p => p === null ? "NaN" : p >= .0995 ? (100 * p).toFixed(0) + "%"
  : p >= .001 ? (100 * p).toFixed(1) + "%" : "<0.1%";
const fixed = x => x === null ? "NaN" : x.toFixed(2);
function fill(card, i) {
  const row = Math.floor(i / columns), column = i % columns;
  const [ids, probabilities, logits, tracked] = lens.cells[i];
  make("p", `${lens.rows[row]} \u00b7 position ${lens.positions[column]}, after \u201c${lens.prompt[column]}\u201d`, card);
  if (ids[0] < 0) make("div", "The logits are not finite.", card);
  const list = make("ol", "", card);
  const heading = make("li", "", list);
  heading.className = "heading";
  for (const [tag, text] of [["b", "next token"], ["span", "prob."], ["span", "logit"]]) make(tag, text, heading);
  ids.forEach((id, k) => {
    if (id < 0) return;
    const item = make("li", "", list);
    if (id === lens.track) item.className = "track";
    make("b", lens.labels[id], item);
    make("span", percent(probabilities[k]), item);
    make("span", fixed(logits[k]), item);
  });
  if (tracked) make("footer", `\u201c${lens.labels[lens.track]}\u201d ${percent(tracked[0])}, logit ${fixed(tracked[1])}, rank ${tracked[2]}`, card);
}
)js";

constexpr std::string_view lens_style = R"(
:root { --other: #b9b1a4; --on-other: var(--ink); }
@media screen and (prefers-color-scheme: dark) { :root { --other: #57534b; } }
)";

std::string row_name(const Lens& lens, size_t row) {
  return lens.layers[row] ? fmt::format("layer {}", *lens.layers[row])
                          : "before layer 0";
}

std::string number(float x) {
  return std::isfinite(x) ? fmt::format("{:.6g}", x) : "null";
}

int step_of(float probability) {
  return std::clamp(
      static_cast<int>(std::lround(probability * steps)), 0, steps);
}

// The colours of the steps; where they get strong the text turns.
std::string ramp(char kind, std::string_view name) {
  std::string css;
  for (int i = 0; i <= steps; ++i)
    css += fmt::format(
        ".{0}{1} {{ background: color-mix(in oklab, var(--{2}) {3}%, "
        "var(--cold));{4} }}\n",
        kind,
        i,
        name,
        i * 100 / steps,
        i * 10 >= steps * 7 ? fmt::format(" color: var(--on-{});", name) : "");
  return css;
}

// What is shown of a lens: rows from the last to the first, as they lie on
// the page, columns from `first` on.
class Page {
 public:
  Page(const Lens& lens, const LensNames& names)
      : lens_(lens),
        names_(names),
        first_(
            lens.columns() -
            std::min(
                lens.columns(),
                std::max<size_t>(1, most_cells / lens.rows()))) {
    size_.rows = lens.rows();
    size_.columns = lens.columns() - first_;
    size_.row_label = std::string_view("embed").size();
    size_.texts = true;
  }

  std::string text() const {
    auto facts = NamedTexts{{"model", names_.model}};
    for (const auto& edit : names_.edits)
      facts.emplace_back("edit", edit);
    if (!names_.command.empty()) facts.emplace_back("command", names_.command);
    return page(
        kind() + (": " + prompt()),
        std::string(page_style) + std::string(lens_style) + ramp('p', "hot") +
            ramp('o', "other") + size_.style(),
        page_header(
            kind(), headline(), {{"prompt", names_.prompt}}, facts, about()) +
            notices() + legend() + grid() + (lens_.track ? tracked() : "") +
            "<div id=\"card\" role=\"status\" hidden></div>\n",
        data() + std::string(script) + std::string(grid_script));
  }

 private:
  std::string kind() const {
    return lens_.tuned      ? "Tuned lens"
           : lens_.jacobian ? "Jacobian lens"
                            : "Logit lens";
  }

  std::string prompt() const {
    std::string out;
    for (const auto& label : names_.prompt)
      out += label;
    constexpr size_t most = 400;
    if (out.size() <= most) return out;
    size_t end = most;
    while (end > 0 && (static_cast<unsigned char>(out[end]) & 0xC0) == 0x80)
      --end;
    return out.substr(0, end) + "...";
  }

  size_t k() const { return static_cast<size_t>(lens_.top_k); }

  std::string label(size_t column) const {
    return visible(names_.prompt[static_cast<size_t>(lens_.positions[column])]);
  }

  // Who wins at the last position, and since when.
  std::string headline() const {
    const size_t last = lens_.rows() - 1, column = lens_.columns() - 1;
    const int id = lens_.winner(last, column);
    if (id < 0) return prompt();
    size_t from = last;
    while (from > 0 && lens_.winner(from - 1, column) == id)
      --from;
    const auto at = lens_.cell(last, column) * k();
    const auto share = percent(lens_.top_probabilities[at]);
    const auto start = fmt::format(
        "After “{}”, “{}” wins ", label(column), visible(names_.token(id)));
    const auto top = row_name(lens_, last);
    if (from == last)
      return start + fmt::format("only at {}, with {}.", top, share);
    return start +
           fmt::format(
               "from {} on, with {} at {}.", row_name(lens_, from), share, top);
  }

  std::string about() const {
    const bool stream = lens_.site == "resid_post";
    return fmt::format(
        "What <code>{}</code> would predict next {} each layer: {}, read {}by "
        "the model's own final norm and unembedding.{}",
        html(names_.model),
        stream ? "after" : "in",
        stream ? "the residual stream"
               : fmt::format("<code>{}</code>", html(lens_.site)),
        lens_.tuned      ? "through its translator "
        : lens_.jacobian ? "through its mean Jacobian "
                         : "",
        stream && !lens_.tuned && lens_.model_layers > 0 &&
                lens_.layers.back() == lens_.model_layers - 1
            ? " The top row is its actual prediction."
            : "");
  }

  std::string notices() const {
    std::string out;
    if (first_ > 0)
      out += fmt::format(
          "<p class=\"notice\">The last {} of {} positions are shown; choose "
          "others with <code>--positions</code>.</p>\n",
          lens_.columns() - first_,
          lens_.columns());
    if (size_.wide())
      out +=
          "<p class=\"notice hint\">Scroll the grid to the left for earlier "
          "positions.</p>\n";
    return out;
  }

  std::string legend() const {
    std::string out = "<div class=\"legend\">";
    for (const auto& [kind, text] :
         {std::pair{'p', "the top row's token"}, {'o', "another token"}}) {
      out += "<span>0% <span class=\"ramp\">";
      for (int i = 0; i <= steps; i += 4)
        out += fmt::format("<i class=\"{}{}\"></i>", kind, i);
      out += fmt::format("</span> 100% {}</span>", text);
    }
    if (lens_.track)
      out += fmt::format(
          "<span><i class=\"swatch track\"></i> “{}” wins</span>",
          html(visible(names_.token(*lens_.track))));
    return out +
           "<span class=\"hint\">Point at a cell, tap it to pin its card, or "
           "move with the arrow keys</span></div>\n";
  }

  std::string grid() const {
    std::string out = size_.open() +
                      "<table role=\"grid\" aria-label=\"The most "
                      "probable next "
                      "token, by layer and position\">\n"
                      "<thead><tr><th scope=\"col\">layer</th>";
    for (size_t c = first_; c < lens_.columns(); ++c)
      out += fmt::format(
          "<th scope=\"col\">{}<b>{}</b></th>",
          lens_.positions[c],
          html(label(c)));
    out += "</tr></thead>\n<tbody>\n";
    for (size_t r = lens_.rows(); r-- > 0;) {
      out += fmt::format(
          "<tr><th scope=\"row\">{}</th>",
          lens_.layers[r] ? fmt::format("{}", *lens_.layers[r]) : "embed");
      for (size_t c = first_; c < lens_.columns(); ++c)
        out += cell(r, c);
      out += "</tr>\n";
    }
    return out + "</tbody></table></div>\n";
  }

  std::string cell(size_t r, size_t c) const {
    const auto at = lens_.cell(r, c);
    const int id = lens_.winner(r, c);
    // One cell takes the Tab key; the arrows go on from there.
    const bool entry = r + 1 == lens_.rows() && c + 1 == lens_.columns();
    if (id < 0)
      return fmt::format(
          "<td tabindex=\"{}\" class=\"bad\">NaN</td>", entry ? 0 : -1);
    return fmt::format(
        "<td tabindex=\"{}\" class=\"{}{}{}\">{}</td>",
        entry ? 0 : -1,
        id == lens_.winner(lens_.rows() - 1, c) ? 'p' : 'o',
        step_of(lens_.top_probabilities[at * k()]),
        lens_.track == id ? " track" : "",
        html(visible(names_.token(id))));
  }

  // The tracked token's probability by layer at the last position.
  std::string tracked() const {
    constexpr double width = 720, height = 150;
    const size_t column = lens_.columns() - 1, rows = lens_.rows();
    const auto x = [&](size_t row) {
      return rows > 1 ? width * static_cast<double>(row) /
                            static_cast<double>(rows - 1)
                      : width / 2;
    };
    std::string points, dots;
    for (size_t row = 0; row < rows; ++row) {
      const float p = lens_.track_probabilities[lens_.cell(row, column)];
      if (!std::isfinite(p)) continue;
      const double y = height * (1 - static_cast<double>(p));
      points += fmt::format(" {:.1f},{:.1f}", x(row), y);
      dots += fmt::format(
          "<circle class=\"dot\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"3\"><title>{}"
          ": {}, rank {}</title></circle>",
          x(row),
          y,
          row_name(lens_, row),
          html(percent(p)),
          lens_.track_ranks[lens_.cell(row, column)]);
    }
    std::string out = fmt::format(
        "<section>\n<h2>“{}” after “{}”, layer by layer</h2>\n",
        html(visible(names_.token(*lens_.track))),
        html(label(column)));
    const auto top = lens_.on_top_from(column);
    out += fmt::format(
        "<p class=\"about\">{}</p>\n",
        top ? "It is on top from " + row_name(lens_, *top) + " on."
            : "It does not end on top.");
    out += fmt::format(
        "<svg viewBox=\"-40 -12 {} {}\" role=\"img\" aria-label=\"Probability "
        "of the tracked token by layer\">\n",
        width + 60,
        height + 40);
    for (int i = 0; i <= 4; ++i)
      out += fmt::format(
          "<path class=\"grid-line\" d=\"M0 {0}H{1}\"/><text x=\"-8\" "
          "y=\"{2}\" "
          "text-anchor=\"end\">{3}%</text>\n",
          height * (4 - i) / 4,
          width,
          height * (4 - i) / 4 + 4,
          i * 25);
    const size_t every = std::max<size_t>(1, (rows + 9) / 10);
    for (size_t row = 0; row < rows; row += every)
      out += fmt::format(
          "<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
          x(row),
          height + 20,
          lens_.layers[row] ? fmt::format("{}", *lens_.layers[row]) : "embed");
    if (!points.empty())
      out += fmt::format(
          "\n<polygon class=\"area\" points=\"{0} {1:.1f},{2} 0,{2}\"/>"
          "<polyline class=\"way\" points=\"{0}\"/>{3}\n",
          points.substr(1),
          x(rows - 1),
          height,
          dots);
    return out + "</svg>\n</section>\n";
  }

  std::string cell_data(size_t r, size_t c) const {
    const auto at = lens_.cell(r, c);
    std::vector<std::string> ids, probabilities, logits;
    for (size_t i = at * k(); i < (at + 1) * k(); ++i) {
      ids.push_back(fmt::format("{}", lens_.top_ids[i]));
      probabilities.push_back(number(lens_.top_probabilities[i]));
      logits.push_back(number(lens_.top_logits[i]));
    }
    auto out = fmt::format(
        "[[{}],[{}],[{}]",
        fmt::join(ids, ","),
        fmt::join(probabilities, ","),
        fmt::join(logits, ","));
    if (lens_.track)
      out += fmt::format(
          ",[{},{},{}]",
          number(lens_.track_probabilities[at]),
          number(lens_.track_logits[at]),
          lens_.track_ranks[at]);
    return out + "]";
  }

  // What the script reads, as JSON: rows and cells in the page's order.
  std::string data() const {
    std::set<int> used;
    std::vector<std::string> rows, cells, prompt_labels, labels;
    for (size_t r = lens_.rows(); r-- > 0;) {
      rows.push_back(script_string(row_name(lens_, r)));
      for (size_t c = first_; c < lens_.columns(); ++c) {
        cells.push_back(cell_data(r, c));
        const auto at = lens_.cell(r, c) * k();
        for (size_t i = at; i < at + k(); ++i)
          if (lens_.top_ids[i] >= 0) used.insert(lens_.top_ids[i]);
      }
    }
    for (size_t c = first_; c < lens_.columns(); ++c)
      prompt_labels.push_back(script_string(label(c)));
    if (lens_.track) used.insert(*lens_.track);
    for (const int id : used)
      labels.push_back(fmt::format(
          "\"{}\":{}", id, script_string(visible(names_.token(id)))));
    return fmt::format(
        R"(const lens = {{"track":{},"rows":[{}],"positions":[{}],"prompt":[{}],
"labels":{{{}}},
"cells":[{}]}};
)",
        lens_.track ? fmt::format("{}", *lens_.track) : "null",
        fmt::join(rows, ","),
        fmt::join(
            lens_.positions.begin() + static_cast<long>(first_),
            lens_.positions.end(),
            ","),
        fmt::join(prompt_labels, ","),
        fmt::join(labels, ","),
        fmt::join(cells, ",\n"));
  }

  const Lens& lens_;
  const LensNames& names_;
  size_t first_;
  GridSize size_;
};

}  // namespace

std::string lens_page(const Lens& lens, const LensNames& names) {
  return Page(lens, names).text();
}

}  // namespace mlxterp::view
