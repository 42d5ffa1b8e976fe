// Filters of sampling against transformers' (tests/parity/make_sampling.py).

#include "mlxterp/generate/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"

namespace mx = mlx::core;

namespace mlxterp::test {
namespace {

using nlohmann::json;

json fixture() {
  std::ifstream file(MLXTERP_SOURCE_DIR "/tests/parity/sampling.json");
  return json::parse(file);
}

mx::array rows_of(const json& rows) {
  std::vector<float> flat;
  for (const auto& row : rows)
    for (const auto& x : row)
      flat.push_back(x.get<float>());
  const int n = static_cast<int>(rows.size());
  return mx::array(flat.data(), {n, static_cast<int>(flat.size()) / n});
}

mx::array filtered(
    const std::string& name,
    const mx::array& logits,
    const mx::array& seen,
    float number) {
  if (name == "top_k") return keep_top_k(logits, static_cast<int>(number));
  if (name == "top_p") return keep_top_p(logits, number);
  if (name == "min_p") return keep_min_p(logits, number);
  return penalized(logits, seen, number);
}

TEST(Sampling, FiltersAreTransformers) {
  const auto all = fixture();
  const auto logits = rows_of(all["logits"]);
  std::vector<uint8_t> marks(logits.size());
  for (size_t i = 0; i < all["seen"].size(); ++i)
    for (const auto& id : all["seen"][i])
      marks[i * 41 + id.get<size_t>()] = 1;
  const mx::array seen(marks.data(), logits.shape(), mx::bool_);
  size_t compared = 0, left_out = 0;
  for (const auto& one : all["cases"]) {
    auto got =
        mx::contiguous(filtered(one["filter"], logits, seen, one["number"]));
    got.eval();
    for (size_t i = 0; i < one["logits"].size(); ++i) {
      std::vector<float> wanted, values;
      for (size_t j = 0; j < one["logits"][i].size(); ++j, ++compared) {
        const auto& x = one["logits"][i][j];
        wanted.push_back(x.is_null() ? -INFINITY : x.get<float>());
        values.push_back(got.data<float>()[i * 41 + j]);
        left_out += x.is_null();
      }
      // Which of equal logits completes top-p's set is nobody's to say.
      if (one["filter"] == "top_p") {
        std::ranges::sort(wanted);
        std::ranges::sort(values);
      }
      for (size_t j = 0; j < wanted.size(); ++j)
        EXPECT_TRUE(
            values[j] == wanted[j] || std::abs(values[j] - wanted[j]) <= 1e-5f)
            << one["filter"] << one["number"] << " at " << i << ", " << j
            << ": " << values[j] << " for " << wanted[j];
    }
  }
  EXPECT_EQ(compared, 17u * 5u * 41u);
  EXPECT_GT(left_out, 1000u);
}

TEST(Sampling, DrawsFollowTheProbabilities) {
  const std::vector<float> probabilities = {0.5f, 0.3f, 0.15f, 0.05f};
  std::vector<float> logits;
  for (const float p : probabilities)
    logits.push_back(std::log(p) * 2);  // temperature 2 halves them
  const mx::array row(logits.data(), {1, 4});
  std::map<int, int> count;
  constexpr int draws = 4000;
  std::vector<mx::array> all;
  for (int step = 0; step < draws; ++step)
    all.push_back(sample(row, {}, {.temperature = 2.0f}, {5}, step));
  const auto tokens = mx::concatenate(all, 0);
  auto evaluated = tokens;
  evaluated.eval();
  for (int i = 0; i < draws; ++i)
    ++count[evaluated.data<int>()[i]];
  for (int i = 0; i < 4; ++i) {
    const float p = probabilities[static_cast<size_t>(i)];
    const float off = std::sqrt(p * (1 - p) * draws);
    EXPECT_NEAR(count[i], p * draws, 5 * off) << i;
  }
}

TEST(Sampling, ARowDoesNotDependOnTheOthers) {
  const auto logits = rows_of(fixture()["logits"]);
  const Sampling by{.temperature = 1.3f, .top_k = 20};
  const std::vector<uint64_t> seeds = {4, 9, 4, 1, 0};
  for (int step = 0; step < 20; ++step) {
    auto together = sample(logits, {}, by, seeds, step);
    together.eval();
    for (int i = 0; i < 5; ++i) {
      const auto one = mx::slice(logits, {i, 0}, {i + 1, 41});
      auto alone = sample(one, {}, by, {seeds[static_cast<size_t>(i)]}, step);
      EXPECT_EQ(alone.item<int>(), together.data<int>()[i]) << step;
    }
  }
}

void expect_refused(const Sampling& sampling, const std::string& about) {
  try {
    check(sampling);
    FAIL() << about;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::usage);
    EXPECT_NE(std::string(error.what()).find(about), std::string::npos)
        << error.what();
  }
}

TEST(Sampling, WhatCannotBeIsRefused) {
  expect_refused({.temperature = -1}, "temperature");
  expect_refused({.temperature = NAN}, "temperature");
  expect_refused({.temperature = 1, .top_k = -1}, "top_k");
  expect_refused({.temperature = 1, .top_p = 0}, "top_p");
  expect_refused({.temperature = 1, .top_p = 1.5f}, "top_p");
  expect_refused({.temperature = 1, .min_p = 2}, "min_p");
  expect_refused({.repetition_penalty = 0}, "repetition_penalty");
  expect_refused({.top_k = 5}, "temperature 0");
  expect_refused({.top_p = 0.5f}, "temperature 0");
}

TEST(Sampling, WhatTheMakersSayCountsWhereSomethingIsDrawn) {
  GenerationConfig makers;
  makers.top_p = 0.9f;
  makers.top_k = 20;
  makers.temperature = 0.6f;
  const auto greedy = resolve({}, makers);
  EXPECT_EQ(greedy.sampling, Sampling{});
  EXPECT_TRUE(greedy.from_model.empty());
  const auto drawn = resolve({.temperature = 0.8f, .top_k = 5}, makers);
  EXPECT_EQ(
      drawn.sampling,
      (Sampling{.temperature = 0.8f, .top_k = 5, .top_p = 0.9f}));
  EXPECT_EQ(drawn.from_model, std::vector<std::string>{"top_p"});
}

}  // namespace
}  // namespace mlxterp::test
