// Sweeps against one forward pass a cell, in every family.

#include "mlxterp/analysis/patch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "mlx/memory.h"
#include "mlx/ops.h"
#include "mlxterp/core/error.h"
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
  options.one_pass_per_cell = true;
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

// The layers that have as many heads or neurons of it as the first that has it;
// none: all.
std::vector<int> alike(
    const InterpretableModel& model, const std::string& name) {
  std::vector<std::tuple<int, int, int>> found;  // heads, width, layer
  for (size_t i = 0; i < model.sites().size(); ++i) {
    const auto& site = model.sites()[static_cast<SiteId>(i)];
    if (site.layer >= 0 &&
        (site.relative() == name || site.relative() == "attn." + name))
      found.emplace_back(site.n_heads, site.width, site.layer);
  }
  std::vector<int> layers;
  for (const auto& [heads, width, layer] : found)
    if (heads == std::get<0>(found[0]) && width == std::get<1>(found[0]))
      layers.push_back(layer);
  return layers.size() == found.size() ? std::vector<int>() : layers;
}

class PatchFamilies : public testing::TestWithParam<std::string> {};

TEST_P(PatchFamilies, EqualsOnePassACell) {
  const auto model =
      InterpretableModel::load((test::families_root / GetParam()).string());
  // They share three tokens, differ, and differ again.
  const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
  const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};
  for (const auto& [site, by] : cases()) {
    // Layers that are a mixer alone have fewer sites.
    const bool there = std::ranges::any_of(
        std::vector{"", "attn.", "mlp."}, [&](const char* part) {
          return model.sites().contains(
              fmt::format("layers.*.{}{}", part, site));
        });
    if (!there && !model.sites().contains("layers.*.attn.z")) continue;
    PatchOptions options{
        .clean = clean,
        .corrupt = corrupt,
        .site = site,
        .by = by,
        .metric = logit_diff(4, 9)};
    if (std::ranges::count(by, Axis::head) +
            std::ranges::count(by, Axis::neuron) >
        0)
      options.layers = alike(model, site);
    expect_exact(model, options, 1e-4, GetParam() + " " + site);
  }
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

const std::vector<int> clean = {5, 11, 3, 29, 7, 13, 2};
const std::vector<int> corrupt = {5, 11, 3, 30, 7, 14, 2};

TEST(Patch, EveryMetricAndDirection) {
  const auto model = test::tiny_model();
  const auto own = custom(
      "mean", [](const mx::array& logits) { return mx::mean(logits, 1); });
  for (const auto& metric :
       {logit(4),
        logit_diff(4, 9),
        probability(4),
        log_probability(4),
        kl_divergence(),
        loss(),
        own})
    for (const auto direction : {Direction::denoise, Direction::noise})
      for (const char* site : {"resid_pre", "resid_post", "mlp_out"})
        expect_exact(
            model,
            {.clean = clean,
             .corrupt = corrupt,
             .site = site,
             .metric = metric,
             .direction = direction},
            1e-5,
            metric.name + " " + site);
  expect_exact(
      model,
      {.clean = clean,
       .corrupt = corrupt,
       .site = "mlp_out",
       .metric = rank(4)},
      0,
      "rank");
}

// The loss of all positions, in one's own words.
TEST(Patch, CustomMetricsSeeEveryPosition) {
  const auto model = test::tiny_model();
  const auto own_loss = [](const std::vector<int>& ids) {
    return custom_of_run("own loss", [ids](const mx::array& logits) {
      const int n = static_cast<int>(ids.size()) - 1;
      EXPECT_EQ(logits.shape(), mx::Shape({n + 1, 97}));
      const auto log_p = mx::subtract(logits, mx::logsumexp(logits, -1, true));
      return mx::negative(mx::mean(mx::take_along_axis(
          mx::slice(log_p, {0, 0}, {n, 97}),
          mx::array(ids.data() + 1, {n, 1}, mx::int32),
          1)));
    });
  };
  // The runs' ends are each other's, so one's own targets serve both.
  const std::vector<int> other = {5, 12, 4, 30, 8, 14, 1};
  const std::vector<int> same = {5, 12, 8, 30, 8, 14, 1};
  for (const char* site : {"resid_pre", "z"}) {
    PatchOptions options{
        .clean = same,
        .corrupt = other,
        .site = site,
        .metric = own_loss(other)};
    expect_exact(model, options, 1e-5, site);
    const auto own = patch(model, options);
    options.metric = loss();
    const auto known = patch(model, options);
    test::expect_close(
        flat(own.metric), flat(known.metric), 1e-5, own.cells(), site);
    EXPECT_NEAR(own.corrupt, known.corrupt, 1e-5);
    EXPECT_LT(own.computed, own.cells());  // the first position is shared
  }
  const auto said = model(other);
  EXPECT_NEAR(
      measure(model, own_loss(other), said),
      patch(model, {.clean = same, .corrupt = other, .metric = loss()}).corrupt,
      1e-5);
  EXPECT_THROW(
      patch(
          model,
          {.clean = same,
           .corrupt = other,
           .metric = custom_of_run(
               "all", [](const mx::array& logits) { return logits; })}),
      Error);
}

TEST(Patch, NeuronsAndParts) {
  using enum Axis;
  const auto model = test::tiny_model();
  expect_exact(
      model,
      {.clean = clean,
       .corrupt = corrupt,
       .site = "mlp.post",
       .by = {layer, neuron},
       .metric = logit(4)},
      1e-5,
      "neurons");
  expect_exact(
      model,
      {.clean = clean,
       .corrupt = corrupt,
       .site = "z",
       .by = {layer},
       .metric = logit(4),
       .layers = {0, -1},
       .positions = {3, 5, -1},
       .heads = {0, 2, 5}},
      1e-5,
      "some heads at some positions");
  expect_exact(
      model,
      {.clean = clean,
       .corrupt = corrupt,
       .site = "attn_out",
       .by = {position},
       .metric = logit(4),
       .layers = {1, 2}},
      1e-5,
      "two layers at once");
}

TEST(Patch, AlignedPromptsOfTwoLengths) {
  const auto model = test::tiny_model();
  const std::vector<int> longer = {5, 11, 8, 3, 29, 7, 13, 2};
  for (const auto direction : {Direction::denoise, Direction::noise})
    for (const char* site : {"resid_pre", "z", "mlp_out"})
      expect_exact(
          model,
          {.clean = longer,
           .corrupt = corrupt,
           .site = site,
           .metric = logit(4),
           .direction = direction,
           .position_map = {{0, 0}, {1, 1}, {3, 2}, {4, 3}, {6, 5}, {7, 6}}},
          1e-5,
          std::string("aligned ") + site);
}

TEST(Patch, ManyChunksAreOne) {
  const auto model = test::tiny_model();
  PatchOptions options{
      .clean = clean,
      .corrupt = std::vector{6, 12, 4, 30, 8, 14, 1},
      .metric = loss()};
  const auto whole = patch(model, options);
  // A walk's chunk holds little more than the runs.
  options.memory = size_t{1} << 16;
  const auto parts = patch(model, options);
  test::expect_close(
      flat(parts.metric), flat(whole.metric), 1e-6, whole.cells(), "chunks");
  EXPECT_GT(parts.rows, whole.rows);
  options.memory = 1000;
  EXPECT_THROW(patch(model, options), Error);
}

TEST(Patch, KeepsToTheMemoryGiven) {
  auto config = test::tiny_config();
  config.d_model = 256;
  config.d_mlp = 768;
  const auto model = test::tiny_model(config);
  std::vector<int> from, to;
  for (int i = 0; i < 32; ++i) {
    from.push_back((7 * i + 3) % 97);
    to.push_back((11 * i + 5) % 97);
  }
  for (const size_t memory : {4'000'000, 8'000'000}) {
    mx::clear_cache();
    const auto before = mx::get_active_memory();
    mx::reset_peak_memory();
    patch(
        model,
        {.clean = from,
         .corrupt = to,
         .metric = logit_diff(1, 2),
         .memory = memory});
    const auto taken = mx::get_peak_memory() - before;
    EXPECT_LE(taken, memory);
    EXPECT_GE(taken, memory / 3);
  }
}

TEST(Patch, PairsAreAveraged) {
  const auto model = test::tiny_model();
  const std::vector<int> clean2 = {9, 8, 7, 6}, corrupt2 = {9, 8, 5, 6};
  PatchOptions options{
      .clean = Inputs::Rows{clean, clean2},
      .corrupt = Inputs::Rows{corrupt, corrupt2},
      .site = "attn_out",
      .by = {Axis::layer},
      .metric = logit_diff({4, 1}, {9, 2})};
  const auto both = patch(model, options);
  options.clean = clean;
  options.corrupt = corrupt;
  options.metric = logit_diff(4, 9);
  const auto first = patch(model, options);
  options.clean = clean2;
  options.corrupt = corrupt2;
  options.metric = logit_diff(1, 2);
  const auto second = patch(model, options);
  EXPECT_EQ(both.pairs, 2u);
  for (size_t i = 0; i < both.cells(); ++i) {
    EXPECT_NEAR(both.metric[i], (first.metric[i] + second.metric[i]) / 2, 1e-5);
    EXPECT_NEAR(
        both.spread[i], std::abs(first.metric[i] - second.metric[i]) / 2, 1e-5);
  }
}

TEST(Patch, CleanIntoCleanMovesNothing) {
  const auto model = test::tiny_model();
  for (const char* site : {"resid_pre", "z", "mlp_out", "pattern"}) {
    const bool heads = site[0] == 'z' || site[0] == 'p';
    const auto sweep = patch(
        model,
        {.clean = clean,
         .corrupt = clean,
         .site = site,
         .by = heads ? std::vector{Axis::layer, Axis::head}
                     : std::vector{Axis::layer, Axis::position},
         .metric = logit(4)});
    EXPECT_GT(sweep.cells(), 0u);
    for (const float value : sweep.metric)
      EXPECT_EQ(value, sweep.corrupt) << site;
    EXPECT_THROW(sweep.effect(), Error);
  }
}

TEST(Patch, EveryPositionAtALayerRecoversAll) {
  const auto model = test::tiny_model();
  const auto effect = patch(
                          model,
                          {.clean = clean,
                           .corrupt = corrupt,
                           .by = {Axis::layer},
                           .metric = logit(4)})
                          .effect();
  ASSERT_EQ(effect.size(), 3u);
  for (const float value : effect)
    EXPECT_NEAR(value, 1, 1e-5);
}

TEST(Patch, SharedPositionsAreNeverComputed) {
  const auto model = test::tiny_model();
  const auto sweep =
      patch(model, {.clean = clean, .corrupt = corrupt, .metric = logit(4)});
  // Of layer 0 the positions whose tokens differ, of the others all from the
  // first one that differs on.
  EXPECT_EQ(sweep.cells(), 3u * 7);
  EXPECT_EQ(sweep.computed, 2u + 2 * 4);
}

// What is said to be unable to act does nothing in passes of its own, and all
// of that kind is said.
TEST(Patch, SaysWhichCellsCannotAct) {
  const auto model = test::tiny_model();
  size_t compared = 0;
  for (const std::string site :
       {"resid_pre",
        "resid_mid",
        "resid_post",
        "attn_out",
        "mlp_out",
        "z",
        "k"})
    for (const auto& metric : {logit(4), loss()}) {
      PatchOptions options{
          .clean = clean, .corrupt = corrupt, .site = site, .metric = metric};
      const auto sweep = patch(model, options);
      ASSERT_EQ(sweep.inert.size(), sweep.cells()) << site;
      options.one_pass_per_cell = true;
      const auto plain = patch(model, options);
      EXPECT_TRUE(plain.inert.empty());
      const bool ends = site == "resid_mid" || site == "resid_post" ||
                        site == "attn_out" || site == "mlp_out";
      for (size_t i = 0; i < sweep.cells(); ++i) {
        const size_t layer = i / 7, pos = i % 7;
        const bool same_so_far = pos < 3;
        const bool same_token =
            layer == 0 && site == "resid_pre" && clean[pos] == corrupt[pos];
        const bool unread =
            layer == 2 && ends && pos < 6 && metric.kind == Metric::Kind::logit;
        EXPECT_EQ(sweep.inert[i], same_so_far || same_token || unread)
            << site << " of layer " << layer << ", pos " << pos;
        EXPECT_NEAR(sweep.metric[i], plain.metric[i], 1e-5);
        if (!sweep.inert[i]) continue;
        EXPECT_EQ(sweep.metric[i], sweep.corrupt);
        EXPECT_NEAR(plain.metric[i], plain.corrupt, 1e-5);
        ++compared;
      }
    }
  EXPECT_GT(compared, 100u);
  // Of several pairs, what can act in none.
  const std::vector<int> early = {5, 12, 3, 30, 7, 14, 2};
  const auto both = patch(
      model,
      {.clean = Inputs::Rows{clean, clean},
       .corrupt = Inputs::Rows{corrupt, early},
       .site = "z",
       .metric = logit(4)});
  for (size_t i = 0; i < both.cells(); ++i)
    EXPECT_EQ(both.inert[i], i % 7 < 1);
}

TEST(Patch, RealWeights) {
  const auto model = InterpretableModel::load("demo");
  const std::string ioi =
      "When Mary and John went to the store, John gave a drink to";
  const std::string other =
      "When Mary and John went to the store, Mary gave a drink to";
  const auto metric = logit_diff(" Mary", " John");
  // Every third layer keeps the slow side short.
  expect_exact(
      model,
      {.clean = ioi,
       .corrupt = other,
       .metric = metric,
       .layers = {0, 14, 29},
       .positions = {3, 9, 10, 13}},
      1e-5,
      "resid_pre");
  expect_exact(
      model,
      {.clean = ioi,
       .corrupt = other,
       .site = "z",
       .by = {Axis::layer, Axis::head},
       .metric = metric,
       .layers = {0, 20, 29}},
      1e-5,
      "z");
  const auto sweep =
      patch(model, {.clean = ioi, .corrupt = other, .metric = metric});
  EXPECT_EQ(sweep.cells(), 420u);
  EXPECT_NEAR(sweep.clean, 6.1196f, 1e-3f);
  EXPECT_NEAR(sweep.corrupt, -5.4853f, 1e-3f);
}

// What is wrong is said before any long work.
TEST(Patch, Misuse) {
  const auto model = test::tiny_model();
  const auto message = [&](PatchOptions options) -> std::string {
    try {
      patch(model, options);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  const PatchOptions good{
      .clean = clean, .corrupt = corrupt, .metric = logit(4)};
  const auto with = [&](auto change) {
    auto options = good;
    change(options);
    return message(options);
  };
  const auto expect = [](const std::string& said, const char* part) {
    EXPECT_NE(said.find(part), std::string::npos) << said;
  };
  expect(
      with([](auto& o) {
        o.corrupt = std::vector{1, 2, 3};
      }),
      "the clean prompt has 7 tokens, the corrupted one 3");
  expect(with([](auto& o) { o.site = "resid_pr"; }), "resid_pre");
  expect(
      with([](auto& o) { o.site = "scores"; }),
      "not one row of numbers for each position");
  expect(with([](auto& o) { o.site = "logits"; }), "logits");
  expect(with([](auto& o) { o.by = {}; }), "no axis");
  expect(with([](auto& o) { o.by = {Axis::head}; }), "has no heads");
  expect(
      with([](auto& o) {
        o.by = {Axis::layer, Axis::layer};
      }),
      "the axis 'layer' is given twice");
  expect(with([](auto& o) { o.layers = {3}; }), "layer 3 is out of range");
  expect(with([](auto& o) { o.positions = {-8}; }), "position -8");
  expect(with([](auto& o) { o.metric = logit(97); }), "97 is out of range");
  expect(
      with([](auto& o) {
        o.metric = logit({1, 2, 3});
      }),
      "3 tokens for 1 prompts");
  expect(with([](auto& o) { o.metric.position = 7; }), "position 7");
  expect(with([](auto& o) { o.memory = 1; }), "give at least");
  expect(
      with([](auto& o) {
        o.metric = custom("odd", [](const mx::array& logits) {
          return mx::log(mx::multiply(mx::sum(logits, 1), mx::array(-0.0f)));
        });
      }),
      "odd");
  expect(
      with([](auto& o) {
        o.metric =
            custom("shape", [](const mx::array& logits) { return logits; });
      }),
      "one number per row");
  expect(with([](auto& o) { o.position_map = {{0, 9}}; }), "are out of range");
  expect(
      with([](auto& o) { o.site = "layers.1.resid_pre"; }),
      "name it 'resid_pre', and the layer 1");
  expect(with([](auto& o) { o.site = "embed"; }), "of the whole model");
}

}  // namespace
}  // namespace mlxterp
