// Averages against plain loops, over more prompts than one batch of them.

#include "analysis/means.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

// In batches of 16 the widths differ: the longest prompt is in the last one.
Inputs::Rows prompts(int n) {
  Inputs::Rows rows;
  for (int i = 0; i < n; ++i) {
    auto& row = rows.emplace_back();
    const int length = i + 1 == n ? 9 : 1 + (5 * i) % 7;
    for (int p = 0; p < length; ++p)
      row.push_back((13 * i + 7 * p + i * p) % 97);
  }
  return rows;
}

TEST(PositionMeans, AreThoseOfEveryPrompt) {
  const auto model = test::tiny_model();
  const std::vector<std::string> sites = {
      "layers.0.resid_pre", "layers.1.attn.z", "layers.2.mlp.post"};
  for (const int n : {1, 16, 17, 40}) {
    const auto rows = prompts(n);
    double last = -1;
    const auto means =
        position_means(model, rows, sites, [&](std::string_view, double done) {
          EXPECT_GE(done, last);
          last = done;
        });
    EXPECT_GE(last, 0);
    ASSERT_EQ(means.size(), sites.size());
    for (size_t s = 0; s < sites.size(); ++s) {
      std::vector<double> sums, counts(9);
      size_t width = 0;
      for (const auto& ids : rows) {
        auto value =
            mx::contiguous(model.run(ids, {.save = {sites[s]}})[sites[s]]);
        value.eval();
        width = value.size() / ids.size();
        sums.resize(9 * width);
        for (size_t p = 0; p < ids.size(); ++p) {
          ++counts[p];
          for (size_t k = 0; k < width; ++k)
            sums[p * width + k] += value.data<float>()[p * width + k];
        }
      }
      std::vector<float> wanted;
      for (size_t i = 0; i < sums.size(); ++i)
        wanted.push_back(static_cast<float>(sums[i] / counts[i / width]));
      EXPECT_EQ(means[s].shape(0), 9);
      test::expect_close(
          mx::flatten(means[s]),
          mx::array(wanted.data(), {static_cast<int>(wanted.size())}),
          1e-5,
          9 * width,
          fmt::format("{} of {} prompts", sites[s], n));
    }
  }
}

TEST(Averages, OfSweepsAndTheirSpread) {
  Averages averages(2);
  averages.add({1, 5}, "logit", "patch");
  averages.add({3, 5}, "logit", "patch");
  averages.add({8, 5}, "logit", "patch");
  Sweep sweep;
  averages.put(sweep);
  ASSERT_EQ(sweep.metric.size(), 2u);
  EXPECT_EQ(sweep.metric[0], 4);
  EXPECT_EQ(sweep.metric[1], 5);
  EXPECT_NEAR(sweep.spread[0], std::sqrt(26.0 / 3), 1e-6);
  EXPECT_EQ(sweep.spread[1], 0);
  for (const float value : {NAN, INFINITY, -INFINITY})
    try {
      averages.add({1, value}, "logit", "patch");
      ADD_FAILURE() << value;
    } catch (const Error& error) {
      EXPECT_NE(
          std::string(error.what()).find("in cell 1 of sweep 3"),
          std::string::npos)
          << error.what();
    }
}

}  // namespace
}  // namespace mlxterp
