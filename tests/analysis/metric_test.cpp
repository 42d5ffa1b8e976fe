// Metrics against their definitions, written out as loops in double, on logits
// made by hand.

#include "mlxterp/analysis/metric.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "analysis/readout.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/lens.h"
#include "mlxterp/core/error.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

constexpr int vocab = 97;  // the tiny model's

using Row = std::vector<double>;

const InterpretableModel& model() {
  static const auto model = test::tiny_model();
  return model;
}

// Spread over about 12 nats, with the given winner; all distinct.
Row logits_of(int winner, int seed) {
  Row row;
  for (int i = 0; i < vocab; ++i)
    row.push_back(6 * std::sin(1.7 * i + seed) + 0.001 * i);
  row[static_cast<size_t>(winner)] = 7.5;
  return row;
}

mx::array rows_of(const std::vector<Row>& rows) {
  std::vector<float> flat;
  for (const auto& row : rows)
    for (const double x : row)
      flat.push_back(static_cast<float>(x));
  return mx::array(
      flat.data(), {static_cast<int>(rows.size()), vocab}, mx::float32);
}

double log_sum_exp(const Row& row) {
  double most = -INFINITY, sum = 0;
  for (const double x : row)
    most = std::max(most, x);
  for (const double x : row)
    sum += std::exp(x - most);
  return most + std::log(sum);
}

double log_prob(const Row& row, int token) {
  return row[static_cast<size_t>(token)] - log_sum_exp(row);
}

// From p to q, in nats: the sum of p ln(p / q).
double kl(const Row& p, const Row& q) {
  double sum = 0;
  for (int i = 0; i < vocab; ++i)
    sum += std::exp(log_prob(p, i)) * (log_prob(p, i) - log_prob(q, i));
  return sum;
}

// What is ahead of the token: of equal ones the lower ids, as a stable sort has
// it.
double rank_of(const Row& row, int token) {
  std::vector<int> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(), [&](int i) {
    return row[static_cast<size_t>(i)];
  });
  return static_cast<double>(std::ranges::find(order, token) - order.begin());
}

const std::vector<Row>& cases() {
  static const std::vector<Row> all = {
      logits_of(3, 0), logits_of(40, 1), logits_of(96, 2), logits_of(0, 3)};
  return all;
}

// By measure(), as one reads a run: at the last position, and at others.
void expect_measured(
    Metric metric,
    const std::function<double(const Row&)>& definition,
    double tolerance) {
  const auto logits = mx::expand_dims(rows_of(cases()), 0);
  const int n = static_cast<int>(cases().size());
  EXPECT_NEAR(
      measure(model(), metric, logits), definition(cases().back()), tolerance)
      << metric.name;
  for (int at = -n; at < n; ++at) {
    metric.position = at;
    EXPECT_NEAR(
        measure(model(), metric, logits),
        definition(cases()[static_cast<size_t>(at < 0 ? n + at : at)]),
        tolerance)
        << metric.name << " at " << at;
  }
  for (const int at : {-n - 1, n}) {
    metric.position = at;
    EXPECT_THROW(measure(model(), metric, logits), Error) << metric.name;
  }
}

TEST(Metric, TokensFollowTheirDefinitions) {
  for (const int token : {0, 3, 17, 40, 96}) {
    const auto i = static_cast<size_t>(token);
    const int foil = (token + 5) % vocab;
    expect_measured(
        logit(token), [i](const Row& x) { return x[i]; }, 1e-6);
    expect_measured(
        logit_diff(token, foil),
        [&](const Row& x) { return x[i] - x[static_cast<size_t>(foil)]; },
        2e-6);
    expect_measured(
        probability(token),
        [&](const Row& x) { return std::exp(log_prob(x, token)); },
        2e-6);
    expect_measured(
        log_probability(token),
        [&](const Row& x) { return log_prob(x, token); },
        4e-6);
    expect_measured(
        rank(token), [&](const Row& x) { return rank_of(x, token); }, 0);
  }
  // The winner's is 0, the last one's all the others.
  auto row = logits_of(5, 1);
  row[11] = -50;
  const auto logits = mx::expand_dims(rows_of({row}), 0);
  EXPECT_EQ(measure(model(), rank(5), logits), 0);
  EXPECT_EQ(measure(model(), rank(11), logits), vocab - 1);
  // Of equal ones the lower id is ahead.
  row[6] = row[5];
  const auto equal = mx::expand_dims(rows_of({row}), 0);
  EXPECT_EQ(measure(model(), rank(5), equal), 0);
  EXPECT_EQ(measure(model(), rank(6), equal), 1);
}

TEST(Metric, ProbabilitiesOfLogitsOfAnySize) {
  // As far from zero as float32 can tell them apart.
  for (const double shift : {-3e4, 0.0, 3e4}) {
    Row row(vocab, shift - 100);
    row[7] = shift;
    row[8] = shift - 1;
    const auto logits = mx::expand_dims(rows_of({row}), 0);
    const double p = 1 / (1 + std::exp(-1.0));
    // Their logarithms of sums round as they do.
    const double rounding = 1.2e-7 * std::abs(shift) + 1e-6;
    EXPECT_NEAR(measure(model(), probability(7), logits), p, rounding) << shift;
    EXPECT_NEAR(
        measure(model(), log_probability(8), logits), std::log(1 - p), rounding)
        << shift;
    // e^-100, which is none of float32's ordinary numbers.
    EXPECT_NEAR(measure(model(), probability(9), logits), 0, 1e-37) << shift;
  }
}

TEST(Metric, KlDivergenceGoesFromTheCleanRun) {
  const auto metric = readout(model(), kl_divergence());
  ASSERT_TRUE(metric.needs_reference());
  for (const auto& clean : cases()) {
    const auto values = metric.values(
        rows_of(cases()), mx::reshape(rows_of({clean}), {vocab}), {});
    ASSERT_EQ(values.shape(), mx::Shape{static_cast<int>(cases().size())});
    for (size_t i = 0; i < cases().size(); ++i) {
      const double wanted = kl(clean, cases()[i]);
      EXPECT_NEAR(
          mx::take(values, static_cast<int>(i)).item<float>(), wanted, 2e-5);
      // The other way round it is another number.
      const double back = kl(cases()[i], clean);
      EXPECT_TRUE(&clean == &cases()[i] || std::abs(wanted - back) > 1e-4);
    }
  }
}

TEST(Metric, LossIsTheCrossEntropyOfTheNextTokens) {
  const auto metric = readout(model(), loss());
  ASSERT_TRUE(metric.every_position());
  const std::vector<int> next = {8, 40, 12, 96};
  const auto values = metric.values(rows_of(cases()), {}, next);
  ASSERT_EQ(values.shape(), mx::Shape{4});
  for (size_t i = 0; i < next.size(); ++i)
    EXPECT_NEAR(
        mx::take(values, static_cast<int>(i)).item<float>(),
        -log_prob(cases()[i], next[i]),
        4e-6);
}

TEST(Metric, OnesOwnGetsEveryLogit) {
  const auto entropy = custom("entropy", [](const mx::array& logits) {
    EXPECT_EQ(logits.shape(1), vocab);
    EXPECT_EQ(logits.dtype(), mx::float32);
    const auto p = mx::softmax(logits, -1);
    return mx::negative(mx::sum(mx::multiply(p, mx::log(p)), -1));
  });
  expect_measured(
      entropy,
      [](const Row& x) {
        double sum = 0;
        for (int i = 0; i < vocab; ++i)
          sum -= std::exp(log_prob(x, i)) * log_prob(x, i);
        return sum;
      },
      1e-5);
}

// Some logits are NaN or infinite: that is not hidden behind a number, where
// the metric depends on them.
TEST(Metric, WhatIsNoNumberStaysNone) {
  auto broken = logits_of(3, 0);
  broken[20] = std::numeric_limits<double>::quiet_NaN();
  const auto logits = mx::expand_dims(rows_of({broken}), 0);
  EXPECT_TRUE(std::isnan(measure(model(), logit(20), logits)));
  EXPECT_TRUE(std::isnan(measure(model(), logit_diff(4, 20), logits)));
  EXPECT_TRUE(std::isnan(measure(model(), probability(4), logits)));
  EXPECT_TRUE(std::isnan(measure(model(), log_probability(4), logits)));
  EXPECT_TRUE(std::isnan(measure(model(), rank(20), logits)));
  EXPECT_TRUE(std::isnan(measure(model(), rank(4), logits)));
  EXPECT_NEAR(measure(model(), logit(4), logits), broken[4], 1e-6);
  const auto clean = mx::reshape(rows_of({cases()[0]}), {vocab});
  for (const auto& [p, q] :
       {std::pair{cases()[0], broken}, {broken, cases()[0]}})
    EXPECT_TRUE(std::isnan(
        readout(model(), kl_divergence())
            .values(rows_of({q}), mx::reshape(rows_of({p}), {vocab}), {})
            .item<float>()));
  EXPECT_TRUE(std::isnan(readout(model(), loss())
                             .values(rows_of({broken}), {}, {4})
                             .item<float>()));
  // Masked tokens are -inf, and have a probability: none.
  auto masked = logits_of(3, 0);
  masked[20] = -INFINITY;
  const auto some = mx::expand_dims(rows_of({masked}), 0);
  EXPECT_EQ(measure(model(), probability(20), some), 0);
  EXPECT_EQ(measure(model(), log_probability(20), some), -INFINITY);
  EXPECT_EQ(measure(model(), rank(20), some), vocab - 1);
}

// The lens and the metric give a token one rank, also among equals.
TEST(Metric, EqualLogitsRankByTheirIds) {
  const auto flat = mx::zeros({1, 1, vocab});
  for (const int token : {0, 5, vocab - 1})
    EXPECT_EQ(measure(model(), rank(token), flat), token);
  const auto level = model().with({{"logits", replace_with(0.0f)}});
  const std::vector<int> prompt = {3, 4, 5};
  LensOptions options;
  options.track = 5;
  EXPECT_EQ(logit_lens(level, prompt, options).track_ranks.back(), 5);
}

TEST(Metric, SaysWhatItCannotRead) {
  const auto logits = mx::expand_dims(rows_of(cases()), 0);
  const auto message = [&](const Metric& metric) -> std::string {
    try {
      measure(model(), metric, logits);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  const auto expect = [](const std::string& said, const char* part) {
    EXPECT_NE(said.find(part), std::string::npos) << said;
  };
  expect(message(kl_divergence()), "kl needs more than the logits of one");
  expect(message(loss()), "loss needs more than the logits of one");
  expect(message(logit(vocab)), "token id 97 is out of range");
  expect(message(logit(-1)), "token id -1 is out of range");
  expect(message(logit_diff(1, 97)), "token id 97 is out of range");
  expect(message(logit({1, 2})), "2 tokens for 1 prompts");
  auto everywhere = loss();
  everywhere.position = 1;
  expect(message(everywhere), "position 1 means nothing to it");
  expect(
      message(custom(
          "wave",
          [](const mx::array& x) {
            return mx::astype(mx::mean(x, 1), mx::complex64);
          })),
      "complex numbers");
}

}  // namespace
}  // namespace mlxterp
