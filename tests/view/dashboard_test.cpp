// Pages of features: nothing in a label acts.

#include "mlxterp/view/dashboard.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "tests/temp_folder.h"
#include "tests/view/hostile.h"

namespace mlxterp::view {
namespace {

report::DashboardReport hostile_report(int features) {
  report::DashboardReport out{
      .model = test::hostile[0],
      .sae = test::hostile[3],
      .edits = {test::hostile[1]},
      .text = test::hostile[8]};
  out.result = {
      .sites = {.reads = test::hostile[2], .writes = test::hostile[4]},
      .d_sae = 1000,
      .length = 16,
      .tokens = 100,
      .windows = 10};
  FeatureExample example{.value = 2, .ids = {}, .at = 1};
  for (int i = 0; i < test::n_hostile; ++i) {
    example.ids.push_back(i);
    example.acts.push_back(i % 3 == 0 ? 0.0f : i % 3 == 1 ? 2.0f : -1.0f);
  }
  for (int f = 0; f < features; ++f) {
    FeatureDashboard it{.feature = f, .active = 5, .largest = 2, .mean = 1};
    it.activations = {.from = -1, .width = 1, .counts = {1, 0, 4}};
    it.top = {example};
    it.intervals = {
        {.from = 1, .to = 2, .positions = 4, .examples = {example}}};
    it.promoted = {{.id = 0, .logit = 1}, {.id = 3, .logit = 0.5f}};
    it.suppressed = {{.id = 9, .logit = -1}};
    it.similar = {{.feature = 999, .cosine = 0.5f}};
    it.correlated = {{.feature = f, .pearson = 0.5, .cosine = 0.5, .both = 1}};
    out.result.features.push_back(it);
  }
  return out;
}

std::vector<std::string> labels(const std::vector<int>& ids) {
  std::vector<std::string> out;
  for (const int id : ids)
    out.emplace_back(test::hostile[id % test::n_hostile]);
  return out;
}

TEST(DashboardsPage, NothingInItActs) {
  const testing::TempFolder folder;
  auto pages = dashboards_folder(hostile_report(2), labels, test::hostile[3]);
  EXPECT_EQ(pages.size(), 3u);
  pages.emplace_back(
      "page.html", dashboards_page(hostile_report(3), labels, ""));
  for (const auto& [name, page] : pages) {
    const auto file = folder / name;
    std::ofstream(file) << page;
    const auto command = "python3 '" MLXTERP_SOURCE_DIR
                         "/tests/view/check_page.py' '" +
                         file.string() + "' dashboards";
    EXPECT_EQ(std::system(command.c_str()), 0) << name;
  }
  // Features without a page of their own are no links.
  EXPECT_EQ(pages[1].second.find("feature-999"), std::string::npos);
}

TEST(DashboardsPage, IsCappedWithANotice) {
  const auto page = dashboards_page(hostile_report(400), labels, "");
  EXPECT_NE(page.find("first 200 of 400 features"), std::string::npos);
  EXPECT_LT(page.size(), 2u << 20);
}

}  // namespace
}  // namespace mlxterp::view
