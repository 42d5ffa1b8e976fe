#include "mlxterp/report/attention.h"

#include <algorithm>
#include <cmath>

#include "core/fail.h"
#include "report/json.h"
#include "report/takeaway.h"

namespace mlxterp::report {

namespace {

// A head whose shares are all below looks elsewhere, or everywhere.
constexpr float enough = 0.4f;

size_t size(int n) {
  return static_cast<size_t>(n);
}

// The first token draws attention in every prompt.
char hue_of(const std::string& letter) {
  return letter == "F" ? 'o' : letter == "P" ? 'w' : 'c';
}

Heatmap start(const AttentionReport& report) {
  Heatmap map{.kind = "Attention"};
  PromptLine prompt{.name = "prompt"};
  for (const auto& token : report.tokens) {
    map.heading += token.text;
    prompt.tokens.push_back(token.text);
  }
  map.prompts = {std::move(prompt)};
  map.facts = shown({{"model", report.model}, {"edits", report.edits}});
  return map;
}

// "L3H1 98%, L5H0 91%": the best of a kind.
std::string best_of(const HeadGrid& grid, size_t n) {
  std::string out;
  for (const auto& head : grid.best(n))
    out += fmt::format(
        "{}{} {}",
        out.empty() ? "" : ", ",
        name(head),
        percents(static_cast<double>(grid.at(head))));
  return out.empty() ? "no head" : out;
}

}  // namespace

std::string to_json(const AttentionReport& report) {
  const auto& found = report.result;
  const auto& grid = found.entropy;
  Json out;
  out["model"] = report.model;
  out["tokens"] = json_of(report.tokens);
  out["edits"] = report.edits;
  out["layers"] = grid.layers;
  out["heads"] = grid.heads;
  out["first_token"] = numbers(found.first_token.values);
  out["previous_token"] = numbers(found.previous_token.values);
  out["current_token"] = numbers(found.current_token.values);
  out["entropy"] = numbers(grid.values);
  out["patterns"] = Json::array();
  const size_t cells = found.ids.size() * found.ids.size();
  for (int head = 0; head < grid.heads && found.layer >= 0; ++head) {
    if (report.head && *report.head != head) continue;
    const auto* begin = found.pattern.data() + size(head) * cells;
    out["patterns"].push_back(
        {{"layer", found.layer},
         {"head", head},
         {"weights", numbers(std::vector<float>(begin, begin + cells))}});
  }
  return text_of(out);
}

Heatmap overview(const AttentionReport& report) {
  const auto& found = report.result;
  const auto& entropy = found.entropy;
  auto map = start(report);
  map.about = fmt::format(
      "Where each head looks, on average over the prompt: F first token, P "
      "previous token, S the token itself, whichever has most, with its share "
      "in percent; where none has {:.0f}%, the entropy in bits of what a token "
      "attends to (0: one token).",
      100 * enough);
  map.row_axis = "layer";
  map.column_axis = "head";
  map.percent = true;
  map.hue_names = {
      {'o', "F: first token"}, {'w', "P: previous token"}, {'c', "S: itself"}};
  const std::pair<const char*, const HeadGrid*> shares[] = {
      {"F", &found.first_token},
      {"P", &found.previous_token},
      {"S", &found.current_token}};
  map.details = {
      {"on the first token", {}, true},
      {"on the previous token", {}, true},
      {"on itself", {}, true},
      {"entropy, bits", {}, false}};
  for (int j = 0; j < entropy.heads; ++j)
    map.columns.push_back(fmt::format("{}", j));
  for (int i = entropy.layers; i-- > 0;) {
    map.rows.push_back(fmt::format("{}", i));
    for (int j = 0; j < entropy.heads; ++j) {
      const Head head{i, j};
      float most = 0;
      std::string letter;
      for (size_t k = 0; k < std::size(shares); ++k) {
        const float share = shares[k].second->at(head);
        map.details[k].values.push_back(share);
        if (share > most) {
          most = share;
          letter = shares[k].first;
        }
      }
      map.details[3].values.push_back(entropy.at(head));
      map.inert.push_back(std::isnan(entropy.at(head)));
      if (map.inert.back()) {
        map.values.push_back(entropy.at(head));
        map.hues += '0';
        map.labels.emplace_back("-");
        continue;
      }
      map.values.push_back(most);
      map.hues += most < enough ? '0' : hue_of(letter);
      map.labels.push_back(
          most >= enough
              ? fmt::format("{}{:.0f}", letter, std::min(most, 1.0f) * 100)
              : fmt::format("{:.1f}", entropy.at(head)));
    }
  }
  if (std::ranges::find(map.inert, true) == map.inert.end()) map.inert = {};
  map.inert_name = "no attention";
  map.inert_text = "This layer has no attention.";
  map.takeaway = fmt::format(
      "Most on the previous token: {}. Most on the first: {}. Most on itself: "
      "{}.",
      best_of(found.previous_token, 3),
      best_of(found.first_token, 3),
      best_of(found.current_token, 3));
  return map;
}

Heatmap pattern(const AttentionReport& report, int head) {
  const auto& found = report.result;
  const auto n = found.ids.size();
  if (found.layer < 0 || head < 0 || head >= found.entropy.heads)
    fail(
        ErrorKind::out_of_range,
        "[attention] there is no pattern of head {}; {}",
        head,
        found.layer < 0
            ? std::string("no layer's was kept")
            : fmt::format("heads are 0 to {}", found.entropy.heads - 1));
  const Head at{found.layer, head};
  auto map = start(report);
  map.kind = fmt::format("Attention of {}", name(at));
  map.facts.emplace_back("head", name(at));
  map.about =
      "Each row is a token that looks, each column one that is looked at; a "
      "row "
      "adds up to 100%.";
  map.inert_text = "A later token: nothing looks ahead.";
  map.inert_name = "later token";
  map.row_axis = "token";
  map.column_axis = "looks at";
  map.hue_names = {{'o', "at the first token"}, {'w', "at another"}};
  map.percent = true;
  for (size_t i = 0; i < n; ++i) {
    map.rows.push_back(fmt::format("{}:{}", i, report.tokens[i].text));
    map.columns.push_back(fmt::format("{}", i));
    map.notes.push_back(report.tokens[i].text);
    for (size_t j = 0; j < n; ++j) {
      map.values.push_back(found.at(head, i, j));
      map.inert.push_back(j > i);
      map.hues += j == 0 ? 'o' : 'w';
    }
  }
  map.takeaway = fmt::format(
      "{} puts {} of its attention on the first token, {} on the previous one, "
      "{} on the token itself; entropy {:.1f} bits.",
      name(at),
      percents(static_cast<double>(found.first_token.at(at))),
      n > 1 ? percents(static_cast<double>(found.previous_token.at(at)))
            : std::string("nothing"),
      percents(static_cast<double>(found.current_token.at(at))),
      found.entropy.at(at));
  return map;
}

}  // namespace mlxterp::report
