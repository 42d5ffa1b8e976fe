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
