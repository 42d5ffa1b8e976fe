#include "mlxterp/analysis/tasks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "mlxterp/analysis/patch.h"
#include "mlxterp/core/error.h"
#include "mlxterp/core/paths.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

const InterpretableModel& demo() {
  static const auto model = InterpretableModel::load("demo");
  return model;
}

class Tasks : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    ASSERT_TRUE(std::filesystem::exists(demo_model_path()))
        << "the demo model is missing; run make demo";
  }
};

// Equally long, and the answers are single tokens behind the prompt.
TEST_P(Tasks, PairsAreEquallyLong) {
  const auto task = make_task(demo(), GetParam(), {.pairs = 20, .seed = 3});
  ASSERT_EQ(task.pairs.size(), 20u);
  const auto length = task.pairs[0].clean_ids.size();
  for (const auto& pair : task.pairs) {
    EXPECT_EQ(pair.clean_ids.size(), length);
    EXPECT_EQ(pair.corrupt_ids.size(), length);
    EXPECT_NE(pair.clean_ids, pair.corrupt_ids);
    ASSERT_FALSE(pair.answers.empty());
    ASSERT_FALSE(pair.foils.empty());
    EXPECT_NE(pair.answers, pair.foils);
    if (pair.clean.empty()) continue;
    EXPECT_EQ(demo().tokenizer().encode(pair.clean), pair.clean_ids);
    EXPECT_EQ(demo().tokenizer().encode(pair.corrupt), pair.corrupt_ids);
    for (const auto* tokens : {&pair.answers, &pair.foils})
      for (const int token : *tokens) {
        auto with = pair.clean_ids;
        with.push_back(token);
        EXPECT_EQ(
            demo().tokenizer().encode(
                pair.clean + demo().tokenizer().decode(std::vector{token})),
            with);
      }
  }
}

TEST_P(Tasks, AreSeeded) {
  const auto ids = [&](uint64_t seed) {
    const auto task = make_task(demo(), GetParam(), {.pairs = 6, .seed = seed});
    Inputs::Rows rows;
    for (const auto& pair : task.pairs)
      rows.insert(rows.end(), {pair.clean_ids, pair.corrupt_ids});
    return rows;
  };
  EXPECT_EQ(ids(1), ids(1));
  EXPECT_NE(ids(1), ids(2));
}

// What a model of 135 M parameters can: on average, clean prompts call for the
// answer and corrupted ones less.
TEST_P(Tasks, TheDemoModelTellsCleanFromCorrupted) {
  const auto task = make_task(demo(), GetParam(), {.pairs = 16});
  const auto scores = score(demo(), task);
  std::printf(
      "%s: clean %+.3f, corrupted %+.3f, %.0f%% of clean above 0\n",
      GetParam(),
      static_cast<double>(scores.clean_mean),
      static_cast<double>(scores.corrupt_mean),
      100 * static_cast<double>(scores.accuracy));
  EXPECT_GT(scores.clean_mean, 0);
  EXPECT_LT(scores.corrupt_mean, scores.clean_mean);
}

// A sweep over several pairs is the mean of a sweep over each.
TEST_P(Tasks, PatchingSeveralPairsAverages) {
  const auto task = make_task(demo(), GetParam(), {.pairs = 3, .seed = 5});
  PatchOptions options{
      .clean = task.clean(),
      .corrupt = task.corrupt(),
      .by = {Axis::layer, Axis::position},
      .metric = task.metric(),
      .layers = {3, 20},
      .positions = {-2, -1}};
  const auto together = patch(demo(), options);
  ASSERT_EQ(together.pairs, 3u);
  std::vector<double> mean(together.cells());
  double clean = 0;
  for (const auto& pair : task.pairs) {
    const Task one{task.name, {pair}};
    options.clean = one.clean();
    options.corrupt = one.corrupt();
    options.metric = one.metric();
    const auto alone = patch(demo(), options);
    clean += static_cast<double>(alone.clean) / 3;
    for (size_t c = 0; c < mean.size(); ++c)
      mean[c] += static_cast<double>(alone.metric[c]) / 3;
  }
  EXPECT_NEAR(static_cast<double>(together.clean), clean, 1e-4);
  for (size_t c = 0; c < mean.size(); ++c)
    EXPECT_NEAR(static_cast<double>(together.metric[c]), mean[c], 1e-4);
}

INSTANTIATE_TEST_SUITE_P(
    All,
    Tasks,
    testing::Values("ioi", "greater-than", "induction", "agreement", "facts"),
    [](const auto& tested) {
      std::string name = tested.param;
      std::ranges::replace(name, '-', '_');
      return name;
    });

TEST(Task, IoiHasBothOrdersAndOneTokenForAName) {
  ASSERT_TRUE(std::filesystem::exists(demo_model_path()));
  const auto task = make_task(demo(), "ioi", {.pairs = 10});
  for (size_t i = 0; i < task.pairs.size(); ++i) {
    const auto& pair = task.pairs[i];
    const int io = pair.answers[0], s = pair.foils[0];
    const auto where = [&](int id) {
      return std::ranges::find(pair.clean_ids, id) - pair.clean_ids.begin();
    };
    EXPECT_EQ(std::ranges::count(pair.clean_ids, io), 1);
    EXPECT_EQ(std::ranges::count(pair.clean_ids, s), 2);
    EXPECT_EQ(std::ranges::count(pair.corrupt_ids, io), 2);
    EXPECT_EQ(std::ranges::count(pair.corrupt_ids, s), 1);
    // ABBA names who gets it first, BABA second.
    EXPECT_EQ(where(io) < where(s), i % 2 == 0) << pair.clean;
  }
}

TEST(Task, MetricReadsEachPairsOwnTokens) {
  const Task task{
      "own",
      {{"", "", {1, 2}, {1, 3}, {4, 5}, {6}}, {"", "", {7}, {8}, {9}, {10}}}};
  const auto model = test::tiny_model();
  const auto scores = score(model, task);
  ASSERT_EQ(scores.clean.size(), 2u);
  const auto p = [&](const std::vector<int>& ids, int token) {
    return measure(model, probability(token), model(ids));
  };
  EXPECT_NEAR(
      scores.clean[0], p({1, 2}, 4) + p({1, 2}, 5) - p({1, 2}, 6), 1e-6);
  EXPECT_NEAR(scores.corrupt[1], p({8}, 9) - p({8}, 10), 1e-6);
  EXPECT_THROW(measure(model, task.metric(), model({1}), 0, 1), Error);
}

TEST(Task, RefusesWhatItCannotMake) {
  const auto model = test::tiny_model();
  const auto kind = [&](std::string_view name, int pairs) {
    try {
      make_task(model, name, {.pairs = pairs});
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::environment;
  };
  EXPECT_EQ(kind("ioy", 1), ErrorKind::unknown_name);
  EXPECT_EQ(kind("induction", 0), ErrorKind::usage);
  EXPECT_EQ(kind("induction", -1), ErrorKind::usage);
  EXPECT_EQ(kind("ioi", 1), ErrorKind::usage);  // it has no tokenizer
}

}  // namespace
}  // namespace mlxterp
