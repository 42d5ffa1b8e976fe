// Every site that a layer has, by every axis, in both directions and every
// family: the walk against one forward pass a cell; what the one refuses, the
// other refuses with the same words.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "mlxterp/analysis/patch.h"
#include "mlxterp/core/error.h"
#include "tests/families.h"

namespace mlxterp {
namespace {

using enum Axis;

// They share three tokens, differ, and differ again.
const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};
// One before they differ, one where they do, the last.
const std::vector<int> positions = {1, 3, -1};
// Of heads or neurons.
const std::vector<int> units = {0, -1};

const std::vector<std::vector<Axis>>& ways() {
  static const std::vector<std::vector<Axis>> all = {
      {layer},
      {position},
      {head},
      {neuron},
      {layer, position},
      {position, head, layer},
      {layer, neuron, position}};
  return all;
}

bool by(const std::vector<Axis>& axes, Axis axis) {
  return std::ranges::count(axes, axis) > 0;
}

struct Outcome {
  std::optional<Sweep> sweep;
  std::string error;
};

Outcome outcome(const InterpretableModel& model, const PatchOptions& options) {
  try {
    return {patch(model, options), ""};
  } catch (const Error& error) {
    return {std::nullopt, error.what()};
  }
}

// Relative to its layer, with its layout.
std::vector<std::pair<std::string, Layout>> layer_sites(
    const InterpretableModel& model) {
  std::vector<std::pair<std::string, Layout>> all;
  for (size_t i = 0; i < model.sites().size(); ++i) {
    const auto& site = model.sites()[static_cast<SiteId>(i)];
    const std::pair one(std::string(site.relative()), site.layout);
    if (site.layer >= 0 && std::ranges::find(all, one) == all.end())
      all.push_back(one);
  }
  return all;
}

// The layers that have it.
size_t layers_with(const InterpretableModel& model, const std::string& site) {
  size_t n = 0;
  for (int i = 0; i < model.decoder().config().n_layers; ++i)
    n += model.sites().contains(fmt::format("layers.{}.{}", i, site));
  return n;
}

// Whether all layers that have it have as many heads or neurons of it.
bool same_units(
    const InterpretableModel& model,
    const std::string& relative,
    const std::vector<Axis>& axes) {
  std::set<int> heads, widths;
  for (size_t i = 0; i < model.sites().size(); ++i) {
    const auto& site = model.sites()[static_cast<SiteId>(i)];
    if (site.layer < 0 || site.relative() != relative) continue;
    heads.insert(site.n_heads);
    widths.insert(site.width);
  }
  return (!by(axes, head) || heads.size() == 1) &&
         (!by(axes, neuron) || widths.size() == 1);
}

// Whether a sweep of it has a meaning at all.
bool sweepable(
    const std::string& site, Layout layout, const std::vector<Axis>& axes) {
  const bool pattern = site == "attn.pattern";
  if (layout == Layout::other || (layout == Layout::scores && !pattern))
    return false;
  const bool heads = layout == Layout::heads || pattern;
  return !by(axes, heads ? neuron : head);
}

class EverySite : public testing::TestWithParam<std::string> {};

TEST_P(EverySite, WalkedOrOnePassACell) {
  const auto model =
      InterpretableModel::load((test::families_root / GetParam()).string());
  const auto sites = layer_sites(model);
  EXPECT_GE(sites.size(), 20u);
  size_t compared = 0, expected = 0, refused = 0, moved = 0, swept = 0;
  double worst = 0;
  for (const auto& [site, layout] : sites) {
    bool any = false, moves = false;
    for (const auto& axes : ways())
      for (const auto direction : {Direction::denoise, Direction::noise}) {
        const bool heads = by(axes, head), neurons = by(axes, neuron);
        PatchOptions options{
            .clean = clean,
            .corrupt = corrupt,
            .site = site,
            .by = axes,
            .metric = logit_diff(4, 9),
            .direction = direction};
        if (by(axes, position)) options.positions = positions;
        if (heads) options.heads = units;
        if (neurons) options.neurons = units;
        const auto fast = outcome(model, options);
        options.one_pass_per_cell = true;
        const auto slow = outcome(model, options);
        const auto what = fmt::format(
            "{} by {} axes, {} first, {}",
            site,
            axes.size(),
            name(axes[0]),
            direction == Direction::denoise ? "denoise" : "noise");
        EXPECT_EQ(fast.error, slow.error) << what;
        const bool possible =
            sweepable(site, layout, axes) && same_units(model, site, axes);
        EXPECT_EQ(slow.error.empty(), possible) << what << ": " << slow.error;
        if (possible)
          expected += (by(axes, layer) ? layers_with(model, site) : 1) *
                      (by(axes, position) ? positions.size() : 1) *
                      (heads || neurons ? units.size() : 1);
        if (!fast.sweep || !slow.sweep) {
          ++refused;
          continue;
        }
        any = true;
        ASSERT_EQ(fast.sweep->shape(), slow.sweep->shape()) << what;
        const float run = direction == Direction::denoise ? slow.sweep->corrupt
                                                          : slow.sweep->clean;
        const double size = std::max(
            {1.0f, std::abs(slow.sweep->clean), std::abs(slow.sweep->corrupt)});
        for (size_t c = 0; c < slow.sweep->cells(); ++c) {
          const double error =
              std::abs(fast.sweep->metric[c] - slow.sweep->metric[c]) / size;
          EXPECT_LE(error, 1e-4) << what << ", cell " << c;
          worst = std::max(worst, error);
          moves = moves || std::abs(slow.sweep->metric[c] - run) > 1e-3 * size;
          ++compared;
        }
      }
    swept += any;
    moved += moves;
  }
  std::printf(
      "%zu of %zu sites, %zu cells within %.2g, %zu refused\n",
      swept,
      sites.size(),
      compared,
      worst,
      refused);
  EXPECT_EQ(compared, expected);
  EXPECT_GT(compared, 1000u);
  EXPECT_GT(refused, 0u);
  // Of most, the value that is put there says something else.
  EXPECT_GT(2 * moved, swept);
}

INSTANTIATE_TEST_SUITE_P(
    All,
    EverySite,
    testing::ValuesIn(test::supported_variants()),
    [](const auto& tested) { return test::test_name(tested.param); });

TEST(EverySite, OfEveryFamily) {
  EXPECT_EQ(test::supported_variants().size(), test::n_variants - 1);
}

}  // namespace
}  // namespace mlxterp
