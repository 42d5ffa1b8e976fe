#include "mlxterp/view/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "mlxterp/view/heatmap.h"

namespace mlxterp::view {
namespace {

// `n` tokens; two layers of `heads` heads. Head 1 looks at the previous token,
// all others at all alike.
report::AttentionReport report_of(int n, int heads = 3) {
  report::AttentionReport report;
  report.model = "demo";
  auto& found = report.result;
  for (int i = 0; i < n; ++i) {
    found.ids.push_back(i);
    report.tokens.push_back({i, " word" + std::to_string(i)});
  }
  const auto cells = static_cast<size_t>(2 * heads);
  for (auto* grid :
       {&found.first_token,
        &found.previous_token,
        &found.current_token,
        &found.entropy})
    *grid = {2, heads, std::vector<float>(cells, 0.25f)};
  found.entropy.values.assign(cells, 2.5f);
  found.layer = 1;
  for (int h = 0; h < heads; ++h) {
    if (h == 1)
      found.previous_token.values[static_cast<size_t>(heads + h)] = 0.9f;
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j)
        found.pattern.push_back(
            j > i        ? 0.0f
            : h != 1     ? 1.0f / static_cast<float>(i + 1)
            : j + 1 == i ? 0.9f
            : i == 0     ? 1.0f
            : j == i     ? 0.1f
                         : 0.0f);
  }
  return report;
}

void expect_fits(const std::string& text, size_t width) {
  size_t lines = 0;
  // The sentences above are the terminal's to wrap.
  for (size_t at = text.find('\n') + 1; at < text.size(); ++lines) {
    const auto end = std::min(text.find('\n', at), text.size());
    EXPECT_LE(display_width(text.substr(at, end - at)), width)
        << text.substr(at, end - at);
    at = end + 1;
  }
  EXPECT_GT(lines, 2u);
}

TEST(AttentionText, IsAllHeadsWithoutALayer) {
  auto report = report_of(5, 40);
  report.result.layer = -1;
  const auto text = attention_text(report, {.width = 80});
  expect_fits(text.substr(text.find("\n\n")), 80);
  size_t times = 0;
  for (size_t at = 0; (at = text.find("2.5", at)) != std::string::npos; ++at)
    ++times;
  EXPECT_EQ(times, 79u) << text;  // all but one, in blocks
  EXPECT_NE(text.find(" P90"), std::string::npos) << text;
  EXPECT_NE(text.find("F first token, P"), std::string::npos) << text;
}

TEST(AttentionText, HasTokensOnBothAxesWhereTheyFit) {
  auto report = report_of(10);
  report.head = 1;
  const auto text = attention_text(report, {.width = 80});
  expect_fits(text, 80);
  EXPECT_NE(
      text.find("L1H1 puts 25% of its attention on the first token, 90%"),
      std::string::npos)
      << text;
  // The last row: nothing ahead of it is blank, the previous token has 90.
  const auto row = text.find("9: word9");
  ASSERT_NE(row, std::string::npos) << text;
  const auto line = text.substr(row, text.find('\n', row) - row);
  EXPECT_TRUE(
      line.ends_with("90   10") || line.ends_with("90     10") ||
      line.find("90") < line.rfind("10"))
      << line;
  const auto first = text.find("0: word0");
  ASSERT_NE(first, std::string::npos);
  const auto begin = text.substr(first, text.find('\n', first) - first);
  EXPECT_NE(begin.find("100"), std::string::npos) << begin;
  EXPECT_EQ(begin.find(" 0 "), std::string::npos) << begin;
}

TEST(AttentionText, ListsTheStrongestSourcesOfALongPrompt) {
  auto report = report_of(40);
  report.head = 1;
  const auto text = attention_text(report, {.width = 80});
  expect_fits(text, 80);
  EXPECT_NE(
      text.find("39: word39  38: word38 90%, 39: word39 10%"),
      std::string::npos)
      << text;
  report.head = 0;
  const auto even = attention_text(report, {.width = 80});
  expect_fits(even, 80);
}

TEST(AttentionText, OfALayerHasARowForEachHead) {
  const auto text = attention_text(report_of(6), {.width = 80});
  expect_fits(text, 80);
  for (const auto* head : {"L1H0", "L1H1", "L1H2"})
    EXPECT_NE(text.find(head), std::string::npos) << text;
  EXPECT_NE(text.find("4: word4 90%"), std::string::npos) << text;
}

TEST(AttentionPattern, IsAHeatmapWhoseFutureIsHatched) {
  const auto map = report::pattern(report_of(4), 1);
  ASSERT_EQ(map.values.size(), 16u);
  for (size_t i = 0; i < 4; ++i)
    for (size_t j = 0; j < 4; ++j)
      EXPECT_EQ(map.inert[i * 4 + j], j > i);
  EXPECT_EQ(map.rows[2], "2: word2");
  EXPECT_EQ(map.notes[2], " word2");
  const auto page = heatmap_page(map);
  EXPECT_NE(page.find("</i> later token"), std::string::npos);
  EXPECT_NE(page.find("Attention of L1H1"), std::string::npos);
}

TEST(AttentionOverview, CallsAHeadByWhatItHasMostOf) {
  auto report = report_of(4);
  report.result.first_token.values = {0.39f, 0.41f, 1, 0, 0, NAN};
  report.result.previous_token.values = {0.1f, 0.1f, 0.1f, 0.5f, 0.2f, 0.1f};
  report.result.current_token.values = {0.1f, 0.1f, 0.1f, 0.1f, 0.8f, 0.1f};
  const auto map = report::overview(report);
  EXPECT_EQ(
      map.labels,
      (std::vector<std::string>{"P50", "S80", "2.5", "2.5", "F41", "F100"}));
  EXPECT_EQ(map.rows, (std::vector<std::string>{"1", "0"}));
  // The first token draws attention everywhere: it is not what stands out.
  EXPECT_EQ(map.hues, "wc00oo");
  EXPECT_EQ(map.largest(5), (std::vector<size_t>{1, 0}));
  EXPECT_TRUE(map.takeaway.starts_with("Most on the previous token: L1H0 50%"))
      << map.takeaway;
}

}  // namespace
}  // namespace mlxterp::view
