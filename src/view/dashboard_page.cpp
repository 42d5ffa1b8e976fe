#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "mlxterp/view/dashboard.h"
#include "mlxterp/view/html.h"
#include "view/page_parts.h"
#include "view/page_style.h"

namespace mlxterp::view {

namespace {

// More sections than this make a page that browsers struggle with.
constexpr size_t most_sections = 200;
// Activations are coloured in this many steps: classes, since the page's
// policy allows no style attributes.
constexpr int steps = 10;

constexpr std::string_view dashboard_style = R"(
body { max-width: 82rem; }
nav { columns: 22rem; margin: .6rem 0 1.2rem; padding: .6rem .8rem; border: 1px solid var(--line); border-radius: 8px; background: var(--card); font-size: .8rem; }
nav p { display: flex; gap: .7rem; margin: 0; break-inside: avoid; }
nav span { overflow: hidden; text-overflow: ellipsis; white-space: pre; }
nav .density { flex: 0 0 4.2rem; text-align: right; color: var(--soft); font-variant-numeric: tabular-nums; }
a { color: var(--hot); font-weight: 650; }
section { margin-top: 1.6rem; padding-top: .4rem; border-top: 2px solid var(--line); }
h2 { margin: .6rem 0 .1rem; }
h3 { margin: .9rem 0 .25rem; color: var(--soft); font-size: .75rem; font-weight: 650; letter-spacing: .06em; text-transform: uppercase; }
.parts { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .2rem 1.6rem; }
.pairs { margin: 0; padding: 0; list-style: none; font: .78rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.pairs li { display: flex; justify-content: space-between; gap: .8rem; border-bottom: 1px solid var(--line); }
.pairs b { overflow: hidden; text-overflow: ellipsis; white-space: pre; font-weight: 500; }
.pairs span { color: var(--soft); font-variant-numeric: tabular-nums; }
.examples { margin: 0; padding: 0; list-style: none; font: .8rem/1.55 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.examples li { display: flex; gap: .9rem; padding: .12rem 0; border-bottom: 1px solid var(--line); }
.examples b { flex: 0 0 4.4rem; text-align: right; font-variant-numeric: tabular-nums; }
.examples p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.examples i { font-style: normal; border-radius: 3px; }
.at { font-weight: 750; text-decoration: underline; text-underline-offset: .2em; }
summary { padding: .2rem 0; color: var(--soft); font-size: .82rem; cursor: pointer; }
svg .bar { fill: var(--hot); }
svg .below { fill: var(--track); }
)";

std::string shades() {
  std::string css;
  for (const auto& [kind, name] : {std::pair{'u', "hot"}, {'d', "track"}})
    for (int i = 1; i <= steps; ++i)
      css += fmt::format(
          ".{}{} {{ background: color-mix(in oklab, var(--{}) {}%, "
          "transparent); }}\n",
          kind,
          i,
          name,
          6 + i * 6);
  return css;
}

std::string number(double x) {
  return fmt::format("{:.4g}", x);
}

std::string share(int64_t part, int64_t all) {
  return fmt::format(
      "{:.3g}%",
      100.0 * static_cast<double>(part) /
          static_cast<double>(std::max<int64_t>(all, 1)));
}

// Bars side by side, the largest as high as the picture.
std::string picture(const FeatureHistogram& it, std::string_view label) {
  constexpr double width = 320, height = 90;
  if (it.counts.empty()) return "";
  const auto most = std::max<int64_t>(1, *std::ranges::max_element(it.counts));
  const double step = width / static_cast<double>(it.counts.size());
  const auto edge = [&](size_t i) {
    return it.from + static_cast<double>(i) * it.width;
  };
  std::string out = fmt::format(
      "<svg viewBox=\"0 -4 {} {}\" role=\"img\" aria-label=\"{}\">\n",
      width,
      height + 24,
      html(label));
  for (size_t i = 0; i < it.counts.size(); ++i) {
    if (it.counts[i] == 0) continue;
    const double high = std::max(
        1.0,
        height * static_cast<double>(it.counts[i]) / static_cast<double>(most));
    out += fmt::format(
        "<rect class=\"{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" "
        "height=\"{:.1f}\"><title>{} to {}: {}</title></rect>",
        edge(i) < 0 ? "below" : "bar",
        static_cast<double>(i) * step,
        height - high,
        std::max(0.5, step - 0.6),
        high,
        number(edge(i)),
        number(edge(i + 1)),
        it.counts[i]);
  }
  return out + fmt::format(
                   "\n<path class=\"grid-line\" d=\"M0 {0}H{1}\"/>"
                   "<text x=\"0\" y=\"{2}\" text-anchor=\"start\">{3}</text>"
                   "<text x=\"{1}\" y=\"{2}\" text-anchor=\"end\">{4}</text>"
                   "</svg>\n",
                   height,
                   width,
                   height + 15,
                   number(it.from),
                   number(edge(it.counts.size())));
}

class Pages {
 public:
  Pages(
      const report::DashboardReport& report,
      const TokenLabels& labels,
      const std::string& command)
      : report_(report), labels_(labels) {
    const auto& it = report.result;
    facts_ = {
        {"model", report.model},
        {"sae", report.sae},
        {"site", it.sites.writes}};
    if (it.sites.reads != it.sites.writes)
      facts_.emplace_back("read at", it.sites.reads);
    if (!report.text.empty()) facts_.emplace_back("text", report.text);
    for (const auto& edit : report.edits)
      facts_.emplace_back("edit", edit);
    if (!command.empty()) facts_.emplace_back("command", command);
  }

  std::string whole() {
    separate_ = false;
    const auto& all = report_.result.features;
    const auto n = std::min(all.size(), most_sections);
    std::string body = head();
    if (n < all.size())
      body += fmt::format(
          "<p class=\"notice\">The first {} of {} features are shown; write a "
          "folder for all.</p>\n",
          n,
          all.size());
    for (size_t i = 0; i < n; ++i)
      shown_.insert(all[i].feature);
    body += list(n);
    for (size_t i = 0; i < n; ++i)
      body += section(all[i]);
    return made(title(), body);
  }

  std::vector<std::pair<std::string, std::string>> folder() {
    separate_ = true;
    const auto& all = report_.result.features;
    for (const auto& it : all)
      shown_.insert(it.feature);
    std::vector<std::pair<std::string, std::string>> out;
    out.emplace_back("index.html", made(title(), head() + list(all.size())));
    for (const auto& it : all)
      out.emplace_back(
          fmt::format("feature-{}.html", it.feature),
          made(
              fmt::format("Feature {}", it.feature),
              page_header(
                  "Feature",
                  fmt::format("Feature {}", it.feature),
                  {},
                  facts_,
                  "<a href=\"index.html\">all features</a>") +
                  section(it)));
    return out;
  }

 private:
  static std::string made(const std::string& title, const std::string& body) {
    return page(
        title,
        std::string(page_style) + std::string(dashboard_style) + shades(),
        body,
        "");
  }

  std::string title() const {
    return fmt::format("Features of {}", report_.result.sites.writes);
  }

  std::string head() const {
    const auto& it = report_.result;
    const auto dead = std::ranges::count_if(
        it.features, [](const auto& of) { return of.active == 0; });
    auto about = fmt::format(
        "Where in {} positions of {} windows each feature is active. The token "
        "underlined has the activation in front; colours are those of the "
        "others. The first position of a window does not count. Tokens "
        "promoted are those whose logits the decoder row raises most.",
        it.tokens,
        it.windows);
    return page_header(
        "Feature dashboards",
        fmt::format(
            "{} of {} features of {}{}",
            it.features.size(),
            it.d_sae,
            it.sites.writes,
            dead > 0 ? fmt::format(", {} of them never active", dead) : ""),
        {},
        facts_,
        about);
  }

  std::string link(int feature) const {
    if (!shown_.contains(feature)) return fmt::format("{}", feature);
    return separate_
               ? fmt::format("<a href=\"feature-{0}.html\">{0}</a>", feature)
               : fmt::format("<a href=\"#f{0}\">{0}</a>", feature);
  }

  std::string token(int id) const { return visible(labels_({id}).front()); }

  std::string list(size_t n) const {
    std::string out = "<nav>\n";
    for (size_t i = 0; i < n; ++i) {
      const auto& it = report_.result.features[i];
      std::string tokens;
      for (size_t t = 0; t < std::min<size_t>(3, it.promoted.size()); ++t)
        tokens += fmt::format("{}“{}”", t ? " " : "", token(it.promoted[t].id));
      out += fmt::format(
          "<p>{}<span class=\"density\">{}</span><span>{}</span></p>\n",
          link(it.feature),
          it.active ? share(it.active, report_.result.tokens) : "dead",
          html(tokens));
    }
    return out + "</nav>\n";
  }

  std::string section(const FeatureDashboard& it) const {
    auto out = fmt::format(
        "<section id=\"f{0}\">\n<h2>Feature {0}</h2>\n<p class=\"about\">{1}"
        "</p>\n",
        it.feature,
        it.active == 0
            ? fmt::format(
                  "Never active at {} positions.", report_.result.tokens)
            : fmt::format(
                  "Active at {} of {} positions ({}); the largest activation "
                  "is {}, their mean {}.",
                  it.active,
                  report_.result.tokens,
                  share(it.active, report_.result.tokens),
                  number(it.largest),
                  number(it.mean)));
    out += "<div class=\"parts\">\n";
    const auto part = [&](const char* name, const std::string& inside) {
      if (!inside.empty())
        out += fmt::format("<div><h3>{}</h3>{}</div>\n", name, inside);
    };
    part("Promoted", tokens(it.promoted));
    part("Suppressed", tokens(it.suppressed));
    part("Activations", picture(it.activations, "Activations that are not 0"));
    part("Logits", picture(it.logits, "Logits of the vocabulary"));
    std::string similar, correlated;
    for (const auto& [feature, cosine] : it.similar)
      similar += pair(link(feature), number(cosine));
    for (const auto& other : it.correlated)
      correlated += pair(
          link(other.feature),
          fmt::format("{} ({} together)", number(other.pearson), other.both));
    part("Writes alike (cosine)", pairs(similar));
    part("Active together (Pearson)", pairs(correlated));
    out += "</div>\n";
    if (it.active == 0) return out + "</section>\n";
    out += "<h3>Strongest</h3>\n" + examples(it, it.top);
    for (const auto& interval : it.intervals) {
      if (interval.positions == 0) continue;
      out += fmt::format(
          "<details><summary>{} to {}: {} positions ({})</summary>\n{}"
          "</details>\n",
          number(interval.from),
          number(interval.to),
          interval.positions,
          share(interval.positions, report_.result.tokens),
          examples(it, interval.examples));
    }
    return out + "</section>\n";
  }

  static std::string pair(const std::string& left, const std::string& right) {
    return fmt::format("<li><b>{}</b><span>{}</span></li>", left, right);
  }

  static std::string pairs(const std::string& items) {
    return items.empty() ? ""
                         : fmt::format("<ol class=\"pairs\">{}</ol>", items);
  }

  std::string tokens(const std::vector<FeatureToken>& all) const {
    std::string items;
    for (const auto& [id, logit] : all)
      items += pair(html(token(id)), fmt::format("{:+.3f}", logit));
    return pairs(items);
  }

  std::string examples(
      const FeatureDashboard& of,
      const std::vector<FeatureExample>& all) const {
    std::string out = "<ol class=\"examples\">\n";
    const double most = std::abs(static_cast<double>(of.largest));
    for (const auto& it : all) {
      out += fmt::format("<li><b>{}</b><p>", number(it.value));
      const auto texts = labels_(it.ids);
      for (size_t i = 0; i < texts.size(); ++i) {
        const auto text = html(visible(texts[i]));
        const float act = it.acts[i];
        const bool here = static_cast<int>(i) == it.at;
        const auto step = std::clamp(
            static_cast<int>(std::ceil(std::abs(act) / most * steps)),
            0,
            steps);
        out += act == 0 ? text
                        : fmt::format(
                              "<i class=\"{}{}{}\" title=\"{}\">{}</i>",
                              act > 0 ? 'u' : 'd',
                              step,
                              here ? " at" : "",
                              number(act),
                              text);
      }
      out += "</p></li>\n";
    }
    return out + "</ol>\n";
  }

  const report::DashboardReport& report_;
  const TokenLabels& labels_;
  NamedTexts facts_;
  bool separate_ = false;
  std::set<int> shown_;  // features that there are sections of
};

}  // namespace

std::string dashboards_page(
    const report::DashboardReport& report,
    const TokenLabels& labels,
    const std::string& command) {
  return Pages(report, labels, command).whole();
}

std::vector<std::pair<std::string, std::string>> dashboards_folder(
    const report::DashboardReport& report,
    const TokenLabels& labels,
    const std::string& command) {
  return Pages(report, labels, command).folder();
}

std::string dashboards_text(
    const report::DashboardReport& report,
    const TokenLabels& labels,
    const Terminal& terminal) {
  using enum Align;
  constexpr size_t label_width = 14, promoted = 3;
  const auto clipped = [&](int id) {
    const auto shown = visible(labels({id}).front());
    return display_width(shown) <= label_width ? shown
                                               : fit(shown, label_width);
  };
  const auto& it = report.result;
  const bool logits = std::ranges::any_of(
      it.features, [](const auto& of) { return !of.promoted.empty(); });
  std::vector<Table::Column> columns = {
      {"feature", right}, {"density", right}, {"largest", right}, {"at"}};
  if (logits) columns.push_back({"promotes"});
  Table table(columns);
  for (const auto& of : it.features) {
    std::vector<std::string> cells = {
        std::to_string(of.feature),
        of.active ? share(of.active, it.tokens) : "dead"};
    if (of.top.empty()) {
      cells.insert(cells.end(), 2, "");
    } else {
      const auto& best = of.top.front();
      cells.push_back(number(best.value));
      cells.push_back(
          fmt::format("'{}'", clipped(best.ids[static_cast<size_t>(best.at)])));
    }
    std::string tokens;
    for (size_t t = 0; t < std::min(promoted, of.promoted.size()); ++t)
      tokens += fmt::format("{}'{}'", t ? " " : "", clipped(of.promoted[t].id));
    if (logits) cells.push_back(tokens);
    table.add(std::move(cells));
  }
  return table.text(terminal) +
         fmt::format(
             "\n{} of {} features of {}, over {} positions of {} windows\n",
             it.features.size(),
             it.d_sae,
             it.sites.writes,
             it.tokens,
             it.windows);
}

}  // namespace mlxterp::view
