#include "mlxterp/view/heatmap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>

#include "tests/temp_folder.h"
#include "tests/view/hostile.h"

namespace mlxterp::view {
namespace {

using report::PromptLine;
using testing::TempFolder;

// 2 x 3, told apart by their values.
Heatmap small_map() {
  return {
      .kind = "Activation patching",
      .heading = "a b c",
      .about = "About it.",
      .row_axis = "layer",
      .column_axis = "pos",
      .rows = {"10", "11"},
      .columns = {"0", "1", "2"},
      .notes = {"a", " b", " c"},
      .values = {0.25f, -0.5f, 1, 2, -4, 8},
      .percent = false};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

// The words of the line that begins with that label.
std::vector<std::string> row_of(
    const std::string& text, const std::string& label) {
  std::vector<std::string> words;
  for (const auto& line : lines_of(text)) {
    std::vector<std::string> all;
    std::string word;
    for (const char c : line + ' ')
      if (c != ' ')
        word += c;
      else if (!word.empty())
        all.push_back(std::exchange(word, ""));
    if (!all.empty() && all[0] == label) words = all;
  }
  return words;
}

// The class and the text of each cell of a page, row by row.
using Cells = std::vector<std::pair<std::string, std::string>>;
Cells cells_of(const std::string& page) {
  Cells out;
  const std::string mark = " class=\"";
  for (size_t at = page.find("<td "); at != std::string::npos;
       at = page.find("<td ", at)) {
    at = page.find(mark, at) + mark.size();
    const auto end = page.find('"', at), text = page.find('>', at) + 1;
    out.emplace_back(
        page.substr(at, end - at),
        page.substr(text, page.find('<', text) - text));
  }
  return out;
}

// One row of them.
Heatmap map_of(std::vector<float> values, bool percent = true) {
  Heatmap map{.kind = "Activation patching", .heading = "a"};
  map.row_axis = "layer";
  map.column_axis = "pos";
  map.rows = {"3"};
  for (size_t i = 0; i < values.size(); ++i)
    map.columns.push_back(std::to_string(i));
  map.values = std::move(values);
  map.percent = percent;
  return map;
}

TEST(HeatmapText, HasTheFirstRowOnTop) {
  const auto text = heatmap_text(small_map(), {.width = 80});
  using Words = std::vector<std::string>;
  EXPECT_EQ(row_of(text, "10"), (Words{"10", "0.25", "-0.50", "1.00"}));
  EXPECT_EQ(row_of(text, "11"), (Words{"11", "2.00", "-4.00", "8.00"}));
  EXPECT_EQ(row_of(text, "layer"), (Words{"layer", "0", "1", "2"}));
  EXPECT_LT(text.find("\n   10 "), text.find("\n   11 "));
  EXPECT_NE(text.find("About it."), std::string::npos);
  auto map = small_map();
  map.percent = true;
  EXPECT_EQ(
      row_of(heatmap_text(map, {}), "10"), (Words{"10", "25", "-50", "100"}));
}

TEST(HeatmapText, FitsAndSaysWhatItLeavesOut) {
  Heatmap map = small_map();
  map.columns.clear();
  map.notes.clear();
  map.values.clear();
  for (int i = 0; i < 50; ++i) {
    map.columns.push_back(std::to_string(i));
    map.notes.emplace_back(" 日本語");
  }
  for (int i = 0; i < 100; ++i)
    map.values.push_back(static_cast<float>(i));
  for (const size_t width : {20u, 40u, 80u, 120u}) {
    const auto text = heatmap_text(map, {.width = width});
    const auto notice = text.find("columns; a wider terminal");
    EXPECT_NE(notice, std::string::npos) << width;
    const auto grid = text.substr(text.find('\n', notice) + 1);
    const auto lines = lines_of(grid);
    ASSERT_EQ(lines.size(), 4u) << grid;
    for (const auto& line : lines)
      EXPECT_LE(display_width(line), width) << line;
    // The last columns are those that stay.
    EXPECT_TRUE(lines[2].ends_with("49.0")) << lines[2];
  }
  EXPECT_EQ(
      heatmap_text(map, {.width = 1000}).find("a wider terminal"),
      std::string::npos);
}

TEST(HeatmapText, HostileTextsAreInertAndFit) {
  const auto map = test::hostile_map();
  for (const size_t width : {20u, 80u, 200u}) {
    const auto text = heatmap_text(map, {.width = width});
    for (const auto* bad : {"\x1b", "\xE2\x80\xAE", "\xE2\x80\xA8", "\xff"})
      EXPECT_EQ(text.find(bad), std::string::npos);
    const auto lines = lines_of(text);
    EXPECT_GE(lines.size(), map.rows.size() + 2);
  }
}

TEST(HeatmapText, ShowsWhatIsNotFinite) {
  auto map = small_map();
  map.values = {NAN, INFINITY, -INFINITY, 0, -0.0f, 1};
  const auto text = heatmap_text(map, {});
  using Words = std::vector<std::string>;
  EXPECT_EQ(row_of(text, "10"), (Words{"10", "NaN", "inf", "-inf"}));
  EXPECT_EQ(row_of(text, "11"), (Words{"11", "0.00", "0.00", "1.00"}));
}

TEST(HeatmapText, DigitsAdaptToTheLargest) {
  using Words = std::vector<std::string>;
  const auto row = [](std::vector<float> values, bool percent) {
    return row_of(heatmap_text(map_of(std::move(values), percent), {}), "3");
  };
  EXPECT_EQ(row({0.97f, 0.004f}, true), (Words{"3", "97", "0"}));
  EXPECT_EQ(row({0.094f, -0.004f}, true), (Words{"3", "9.4", "-0.4"}));
  EXPECT_EQ(row({0.003f, 0.0004f}, true), (Words{"3", "0.30", "0.04"}));
  EXPECT_EQ(row({0.003f, 0.0004f}, false), (Words{"3", "0.0030", "0.0004"}));
  EXPECT_EQ(row({123, -0.2f}, false), (Words{"3", "123", "0"}));
}

TEST(LargestText, ListsFiveOfManyCells) {
  std::vector<float> values(11, 0.0f);
  values[2] = 0.75f;
  values[7] = -0.9f;
  auto map = map_of(values);
  EXPECT_EQ(
      largest_text(map, {}),
      "largest:\n   -90%  layer 3, pos 7\n    75%  layer 3, pos 2\n");
  map.column_axis = "head";
  EXPECT_NE(largest_text(map, {}).find("   -90%  L3H7\n"), std::string::npos);
  for (size_t i = 0; i < 11; ++i)
    map.values[i] = static_cast<float>(i);
  const auto lines = lines_of(largest_text(map, {}));
  EXPECT_EQ(lines.size(), 6u);
  EXPECT_EQ(largest_text(map_of({1, 0.5f}), {}), "");
  EXPECT_EQ(largest_text(map_of(std::vector<float>(11, 0.0f)), {}), "");
  const auto hostile = test::hostile_map();
  for (const auto& line : lines_of(largest_text(hostile, {.width = 30})))
    EXPECT_LE(display_width(line), 30u);
}

TEST(HeatmapText, LeavesBlankWhatCannotAct) {
  auto map = map_of({0, 0.5f, 1});
  map.inert = {true, false, false};
  using Words = std::vector<std::string>;
  EXPECT_EQ(row_of(heatmap_text(map, {}), "3"), (Words{"3", "50", "100"}));
}

TEST(HeatmapText, HeadsGoOnBelow) {
  Heatmap map{.row_axis = "layer", .column_axis = "head", .rows = {"7", "6"}};
  for (int i = 0; i < 40; ++i)
    map.columns.push_back(std::to_string(i));
  map.values.resize(80, 1);
  const auto text = heatmap_text(map, {.width = 80});
  size_t numbers = 0;
  for (const auto& line : lines_of(text)) {
    EXPECT_LE(display_width(line), 80u) << line;
    for (size_t at = 0; (at = line.find("1.00", at)) != std::string::npos; ++at)
      ++numbers;
  }
  EXPECT_EQ(numbers, 80u) << text;
  EXPECT_EQ(text.find("wider terminal"), std::string::npos);
}

// A real parser looks for elements and attributes that are not ours, and reads
// the table back.
TEST(HeatmapPage, HostileTextsAreInert) {
  const TempFolder folder;
  const auto file = folder / "page.html";
  std::ofstream(file) << heatmap_page(test::hostile_map());
  const auto command = "python3 '" MLXTERP_SOURCE_DIR
                       "/tests/view/check_page.py' '" +
                       file.string() + "' map";
  EXPECT_EQ(std::system(command.c_str()), 0);
}

TEST(HeatmapPage, HasTheFirstRowOnTop) {
  const TempFolder folder;
  const auto file = folder / "page.html";
  std::ofstream(file) << heatmap_page(small_map());
  const auto command =
      "python3 '" MLXTERP_SOURCE_DIR "/tests/view/check_page.py' '" +
      file.string() + "' map '10 0.25 -0.50 1.00/11 2.00 -4.00 8.00'";
  EXPECT_EQ(std::system(command.c_str()), 0);
}

TEST(HeatmapPage, WritesAndTintsOnlyWhatIsWorthIt) {
  using Pair = std::pair<std::string, std::string>;
  const auto all =
      cells_of(heatmap_page(map_of({1, 0.5f, 0.019f, 0, -0.03f, -1, NAN})));
  ASSERT_EQ(all.size(), 7u);
  EXPECT_EQ(all[0], (Pair{"w12", "100"}));
  EXPECT_EQ(all[1], (Pair{"w6", "50"}));
  EXPECT_EQ(all[2], (Pair{"p0", ""}));
  EXPECT_EQ(all[3], (Pair{"p0", ""}));
  EXPECT_EQ(all[4], (Pair{"p0", "-3"}));
  EXPECT_EQ(all[5], (Pair{"c12", "-100"}));
  EXPECT_EQ(all[6], (Pair{"bad", "NaN"}));
  const auto small =
      cells_of(heatmap_page(map_of({0.003f, 0.0016f, 0.00001f})));
  EXPECT_EQ(small[0], (Pair{"w12", "0.30"}));
  EXPECT_EQ(small[1], (Pair{"w6", "0.16"}));
  EXPECT_EQ(small[2], (Pair{"p0", ""}));
  // No printed nothing has a colour, whatever the numbers are.
  for (const float most : {0.001f, 0.02f, 0.3f, 7.0f, 4000.0f})
    for (const bool percent : {true, false}) {
      std::vector<float> values;
      for (int i = -50; i <= 50; ++i)
        values.push_back(most * static_cast<float>(i) / 50);
      for (const auto& [kind, text] :
           cells_of(heatmap_page(map_of(values, percent)))) {
        const bool nothing = text.find_first_not_of("-0.") == std::string::npos;
        if (nothing) {
          EXPECT_EQ(kind, "p0") << most << ' ' << text;
          EXPECT_EQ(text, "") << most;
        }
      }
    }
}

TEST(HeatmapPage, HatchesWhatCannotAct) {
  auto map = map_of({0, 0.5f, 1});
  const std::string hatched = "<i class=\"swatch inert\"></i> cannot act";
  EXPECT_EQ(heatmap_page(map).find(hatched), std::string::npos);
  map.inert = {true, false, false};
  const auto page = heatmap_page(map);
  EXPECT_EQ(cells_of(page)[0].first, "inert");
  EXPECT_EQ(cells_of(page)[1].first, "w6");
  EXPECT_NE(page.find(hatched), std::string::npos);
  EXPECT_NE(page.find("\"inert\":[0],"), std::string::npos);
}

TEST(HeatmapPage, HuesSayOtherThanSigns) {
  auto map = map_of({1, 0.5f, 0.5f, 1});
  map.hues = "oc0w";
  map.hue_names = {{'o', "first"}, {'c', "itself"}, {'w', "previous"}};
  map.warnings = {"the model does not do this"};
  const auto page = heatmap_page(map);
  const auto all = cells_of(page);
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all[0].first, "o12");
  EXPECT_EQ(all[1].first, "c6");
  EXPECT_EQ(all[2].first, "p0");
  EXPECT_EQ(all[3].first, "w12");
  EXPECT_NE(page.find("</span> previous</span>"), std::string::npos);
  EXPECT_NE(
      page.find("<p class=\"notice\">the model does not do this</p>"),
      std::string::npos);
  // Grey is there in every picture and nobody's largest.
  EXPECT_EQ(map.largest(5), (std::vector<size_t>{3, 1}));
}

TEST(HeatmapPage, NamesPlacesOfSeveralSites) {
  auto map = map_of({1});
  map.row_axis = "site.layer";
  map.rows = {"attn.z.23"};
  EXPECT_EQ(map.place(0, 0), "attn.z of layer 23, pos 0");
  map.column_axis = "head";
  EXPECT_EQ(map.place(0, 0), "attn.z of L23H0");
  map.row_axis = "layer";
  map.rows = {"23"};
  EXPECT_EQ(map.place(0, 0), "L23H0");
}

TEST(HeatmapPage, HasNoSideOfTheScaleThatIsEmpty) {
  const auto legend = [](std::vector<float> values) {
    const auto page = heatmap_page(map_of(std::move(values)));
    const auto at = page.find("<div class=\"legend\">");
    return page.substr(at, page.find("</div>", at) - at);
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  const auto up = legend({0, 0.2f, 1}), both = legend({-0.1f, 1}),
             down = legend({0, -0.8f});
  EXPECT_TRUE(has(up, "\"w12\"") && !has(up, "\"c12\"")) << up;
  EXPECT_TRUE(has(up, "<span>0%")) << up;
  EXPECT_TRUE(has(both, "\"w12\"") && has(both, "\"c12\"")) << both;
  EXPECT_TRUE(has(both, "<span>-100%")) << both;
  EXPECT_TRUE(!has(down, "\"w12\"") && has(down, "\"c12\"")) << down;
}

// A metric itself is warm and cold by what it is without any change.
TEST(HeatmapPage, ColoursAroundNeutral) {
  auto map = map_of({-5, 1, 7, 1.05f}, false);
  map.neutral = 1;
  const auto all = cells_of(heatmap_page(map));
  EXPECT_EQ(all[0].first, "c12");
  EXPECT_EQ(all[1], (std::pair<std::string, std::string>{"p0", ""}));
  EXPECT_EQ(all[2].first, "w12");
  EXPECT_EQ(all[3].first, "p0");
}

TEST(HeatmapPage, SaysWhatWasAskedAndWhatItShows) {
  auto map = map_of({0.1f, 0.9f, -0.5f, 0.02f, 0, 0.3f, 0.4f});
  map.takeaway = "Layer 3 has it.";
  map.prompts = {
      {"clean", {"When", " John", " gave"}, {1}},
      {"corrupted", {"When", " Mary", " gave"}, {1}}};
  map.facts = {{"site", "z"}, {"command", "mlxterp patch demo"}};
  map.details = {{"logit", {1, 2, 3, 4, 5, 6, 7}, false}};
  map.bounds = {{"clean", 6.125f}, {"corrupted", -5.5f}};
  const auto page = heatmap_page(map);
  for (const auto* part :
       {"<h1>Layer 3 has it.</h1>",
        "<span>clean</span>When<mark> John</mark> gave",
        "<span>corrupted</span>When<mark> Mary</mark> gave",
        "<dt>site</dt><dd>z</dd>",
        "<dd><code>mlxterp patch demo</code></dd>",
        "<dt>version</dt><dd>mlxterp ",
        R"("bounds":[["clean",6.125],["corrupted",-5.5]])",
        R"("details":[["logit",false,[1,2,3,4,5,6,7]]])"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  // The five largest, whichever way they go.
  std::string listed;
  for (size_t at = page.find("data-cell=\""); at != std::string::npos;
       at = page.find("data-cell=\"", at)) {
    at += std::string("data-cell=\"").size();
    listed += page.substr(at, page.find('"', at) - at) + " ";
  }
  EXPECT_EQ(listed, "1 2 6 5 0 ");
}

TEST(HeatmapPage, LongPromptsAreCutAroundWhatIsMarked) {
  auto map = map_of({1});
  PromptLine line{.name = "clean"};
  for (int i = 0; i < 200; ++i)
    line.tokens.push_back(" t" + std::to_string(i) + ".");
  line.marked = {70};
  map.prompts = {line};
  const auto page = heatmap_page(map);
  for (const auto* part :
       {"… t62. ", "<mark> t70.</mark>", " t78.…", "… t188.", " t199.</p>"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
}

TEST(HeatmapPage, NothingIsHiddenAndColoursArePrinted) {
  Heatmap map = map_of({1});
  const auto narrow = heatmap_page(map);
  EXPECT_EQ(narrow.find("max-height: 88vh"), std::string::npos);
  EXPECT_EQ(narrow.find("<div class=\"grid wide\">"), std::string::npos);
  EXPECT_NE(narrow.find("print-color-adjust: exact"), std::string::npos);
  EXPECT_NE(narrow.find("\"pointerover\""), std::string::npos);
  // 120 columns still fit beside the list in 1280 pixels; of more the page
  // shows the end first.
  const auto with = [&](size_t n) {
    map.columns.assign(n, "0");
    map.values.assign(n, 1);
    return heatmap_page(map);
  };
  EXPECT_EQ(with(120).find("grid wide\">"), std::string::npos);
  const auto wide = with(300);
  EXPECT_NE(wide.find("grid wide\">"), std::string::npos);
  EXPECT_NE(
      wide.find("scroller.scrollLeft = scroller.scrollWidth"),
      std::string::npos);
}

TEST(HeatmapPage, IsCappedWithANotice) {
  Heatmap map{.rows = {"0", "1"}};
  for (int i = 0; i < 40'000; ++i)
    map.columns.push_back(std::to_string(i));
  map.values.resize(80'000);
  const auto page = heatmap_page(map);
  EXPECT_NE(page.find("The last 30000 of 40000 columns"), std::string::npos);
  EXPECT_LT(page.size(), 20u << 20);
}

}  // namespace
}  // namespace mlxterp::view
