#include "mlxterp/analysis/collect.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

TEST(Collect, ManyPromptsEqualTheirSingleRuns) {
  const auto model = test::tiny_model();
  Inputs::Rows prompts;
  for (int i = 0; i < 23; ++i)
    prompts.emplace_back(static_cast<size_t>(1 + i * 7 % 11), i + 1);
  const std::vector<std::string> sites = {
      "layers.*.resid_post", "layers.1.attn.z"};
  const auto all =
      collect_activations(model, prompts, sites, {.batch_size = 4});
  double told = 0;
  const auto last = collect_activations(
      model,
      prompts,
      sites,
      {.positions = CollectOptions::Positions::last,
       .batch_size = 5,
       .progress = [&](std::string_view, double done) { told = done; }});
  EXPECT_EQ(told, 1.0);
  EXPECT_EQ(last["layers.1.attn.z"].shape(), (mx::Shape{23, 6, 8}));
  int row = 0;
  for (int i = 0; i < 23; ++i) {
    const auto& ids = prompts[static_cast<size_t>(i)];
    const int n = static_cast<int>(ids.size());
    EXPECT_EQ(all.lengths()[static_cast<size_t>(i)], n);
    const auto single = model.run(ids, {.save = {"layers.2.resid_post"}});
    const auto expected = mx::squeeze(single["layers.2.resid_post"], 0);
    const auto& kept = all["layers.2.resid_post"];
    EXPECT_LE(
        test::max_difference(
            mx::slice(kept, {row, 0}, {row + n, 24}), expected),
        1e-5);
    EXPECT_LE(
        test::max_difference(
            mx::slice(last["layers.2.resid_post"], {i, 0}, {i + 1, 24}),
            mx::slice(expected, {n - 1, 0}, {n, 24})),
        1e-5);
    row += n;
  }
  EXPECT_EQ(all["layers.2.resid_post"].shape(0), row);
}

TEST(Collect, Misuse) {
  const auto model = test::tiny_model();
  const std::vector<int> prompt = {3, 14, 15, 92, 65};
  const auto expect = [](const std::function<void()>& misuse,
                         const std::string& part) {
    try {
      misuse();
      ADD_FAILURE() << "it was accepted: " << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage) << error.what();
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
          << error.what();
    }
  };
  expect(
      [&] { collect_activations(model, Inputs::Rows{}, {"embed"}); },
      "no prompt");
  expect(
      [&] { collect_activations(model, prompt, {"layers.0.attn.pattern"}); },
      "layers.0.attn.pattern");
  expect(
      [&] { collect_activations(model, prompt, {"embed"}, {.batch_size = 0}); },
      "batch_size is 0");
}

}  // namespace
}  // namespace mlxterp
