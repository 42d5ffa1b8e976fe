// Sweeps against one forward pass a cell, in every family.

#include "mlxterp/analysis/patch.h"

#include <gtest/gtest.h>

#include <cmath>

#include "mlx/ops.h"
#include "tests/compare.h"
#include "tests/families.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

mx::array flat(const std::vector<float>& values) {
  return mx::array(values.data(), {static_cast<int>(values.size())});
}

// Whole sweep against one pass a cell.
void expect_exact(
    const InterpretableModel& model,
    PatchOptions options,
    double tolerance,
    const std::string& what) {
  const auto fast = patch(model, options);
  options.plain = true;
  const auto slow = patch(model, options);
  const double size = std::max(
      {1.0,
       static_cast<double>(std::abs(slow.clean)),
       static_cast<double>(std::abs(slow.corrupt))});
  EXPECT_EQ(fast.shape(), slow.shape()) << what;
  test::expect_close(
      flat(fast.metric),
      flat(slow.metric),
      tolerance * size,
      slow.cells(),
      what);
  EXPECT_NEAR(fast.clean, slow.clean, tolerance * size) << what;
  EXPECT_NEAR(fast.corrupt, slow.corrupt, tolerance * size) << what;
  // And something happened: a cell differs from its run.
  EXPECT_TRUE(std::ranges::any_of(slow.metric, [&](float value) {
    return value != slow.corrupt;
  })) << what;
}

struct Case {
  const char* site;
  std::vector<Axis> by;
};

const std::vector<Case>& cases() {
  using enum Axis;
  static const std::vector<Case> all = {
      {"resid_pre", {layer, position}},
      {"resid_post", {layer, position}},
      {"attn_out", {layer, position}},
      {"mlp_out", {position, layer}},
      {"z", {layer, head}},
      {"z", {layer, head, position}},
      {"q", {layer, head}},
      {"k", {layer, head, position}},
      {"v", {head}},
      {"pattern", {layer, head}},
      {"pattern", {layer, head, position}},
      {"resid_pre", {position}},
  };
  return all;
}

class PatchFamilies : public testing::TestWithParam<std::string> {};

TEST_P(PatchFamilies, EqualsOnePassACell) {
  const auto model =
      InterpretableModel::load((test::families_root / GetParam()).string());
  // They share three tokens, differ, and differ again.
  const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
  const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};
  for (const auto& [site, by] : cases())
    expect_exact(
        model,
        {.clean = clean,
         .corrupt = corrupt,
         .site = site,
         .by = by,
         .metric = logit_diff(4, 9)},
        1e-4,
        GetParam() + " " + site);
}

INSTANTIATE_TEST_SUITE_P(
    All,
    PatchFamilies,
    testing::ValuesIn(test::supported_variants()),
    [](const auto& tested) {
      auto name = tested.param;
      std::ranges::replace_if(
          name, [](char c) { return !std::isalnum(c); }, '_');
      return name;
    });

}  // namespace
}  // namespace mlxterp
