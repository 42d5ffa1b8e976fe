// How tokens choose their experts, by its sites: in every mixture that there
// is.

#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "tests/compare.h"
#include "tests/families.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

std::vector<std::string> mixtures() {
  auto all = test::supported_variants();
  std::erase_if(all, [](const std::string& variant) {
    const auto config = test::config_text(variant);
    if (config.find("expert") == std::string::npos)
      return true;  // reading all takes long
    return !family_of(config).configure(config).moe;
  });
  return all;
}

class Routing : public ::testing::TestWithParam<std::string> {
 protected:
  Routing()
      : model_(test::load_variant(GetParam(), mx::float32)),
        ids_(test::integers(test::expected(GetParam()).at("ids"))),
        moe_(*model_.decoder().config().moe) {
    const auto& layers = model_.decoder().layers;
    size_t i = 0;
    while (!layers[i]->moe)
      ++i;
    here_ = fmt::format("layers.{}.{}.", i, layers[i]->moe_name());
    choice_ = here_ + (model_.sites().lookup(here_ + "router_choice").empty()
                           ? "router_scores"
                           : "router_choice");
  }

  mx::array read(const std::string& site, std::vector<Edit> edits = {}) const {
    return model_.run(ids_, {.save = {site}, .edits = std::move(edits)})[site];
  }

  InterpretableModel model_;
  std::vector<int> ids_;
  nn::MoEConfig moe_;
  std::string here_, choice_;
};

// The chosen are the best, and what their outputs are multiplied with is made
// of their scores, corrections left out.
TEST_P(Routing, SitesSayWhoIsChosen) {
  const auto run = model_.run(
      ids_,
      {.save = {
           here_ + "router_scores",
           choice_,
           here_ + "expert_indices",
           here_ + "expert_weights"}});
  const auto chosen = run[here_ + "expert_indices"];
  const auto best = mx::slice(
      mx::argsort(mx::negative(run[choice_]), -1),
      {0, 0, 0},
      {1, static_cast<int>(ids_.size()), moe_.top_k});
  EXPECT_EQ(test::max_difference(chosen, best), 0);
  auto weights = mx::take_along_axis(run[here_ + "router_scores"], chosen, -1);
  if (moe_.normalize) weights = mx::divide(weights, mx::sum(weights, -1, true));
  weights = mx::multiply(weights, mx::array(moe_.routing.scale));
  if (moe_.expert_scale) {
    const auto ratio = mx::divide(run[here_ + "expert_weights"], weights);
    auto finite = mx::all(mx::isfinite(ratio));
    EXPECT_TRUE(finite.item<bool>());
    return;
  }
  test::expect_close(
      run[here_ + "expert_weights"],
      weights,
      1e-6,
      ids_.size() * static_cast<size_t>(moe_.top_k),
      GetParam());
}

// An expert that the choice is told to take is taken by every token, with the
// weight that its own score gives it.
TEST_P(Routing, AnEditedChoiceIsTheChoice) {
  const int expert = moe_.n_experts - 1;
  const auto names = mx::arange(moe_.n_experts);
  const Edit wanted{
      choice_, [&](const mx::array& x) {
        return mx::where(
            mx::equal(names, mx::array(expert)), mx::array(2.0f), x);
      }};
  const auto chosen = read(here_ + "expert_indices", {wanted});
  auto taken =
      mx::sum(mx::equal(mx::astype(chosen, mx::int32), mx::array(expert)));
  EXPECT_EQ(taken.item<int>(), static_cast<int>(ids_.size()));
  EXPECT_GT(
      test::max_difference(read("logits", {wanted}), read("logits")), 1e-4);
}

// Scores are what weights come from.
TEST_P(Routing, EditedScoresAreTheWeights) {
  const auto plain = read(here_ + "expert_weights");
  const Edit halved{here_ + "router_scores", scale(0.5f)};
  const auto got = read(here_ + "expert_weights", {halved});
  // Halved, they may choose otherwise where corrections are added to them.
  const auto chosen = read(here_ + "expert_indices");
  const auto others = read(here_ + "expert_indices", {halved});
  const auto same = mx::astype(mx::equal(chosen, others), mx::float32);
  auto any = mx::sum(same);
  EXPECT_GT(any.item<float>(), 0);
  const auto factor = mx::array(moe_.normalize ? 1.0f : 0.5f);
  if (moe_.normalize && moe_.routing.corrected) return;  // sums of other sets
  test::expect_close(
      mx::multiply(got, same),
      mx::multiply(mx::multiply(plain, factor), same),
      1e-6,
      plain.size(),
      GetParam());
}

INSTANTIATE_TEST_SUITE_P(
    All, Routing, ::testing::ValuesIn(mixtures()), [](const auto& tested) {
      return test::test_name(tested.param);
    });

TEST(Routing, OfEveryMixture) {
  EXPECT_EQ(mixtures().size(), 30u);
}

}  // namespace
}  // namespace mlxterp
