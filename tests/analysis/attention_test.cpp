#include "mlxterp/analysis/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "mlx/ops.h"
#include "mlxterp/core/error.h"
#include "tests/compare.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

const std::vector<int> prompt = {5, 11, 3, 29, 5, 11, 2};

TEST(Attention, IsThePatternOfAPlainPass) {
  const auto model = test::tiny_model();
  for (const int layer : {0, 2, -1}) {
    const auto found = attention(model, prompt, {.layer = layer});
    EXPECT_EQ(found.layer, layer < 0 ? 2 : layer);
    EXPECT_EQ(found.ids, prompt);
    const auto site = "layers." + std::to_string(found.layer) + ".attn.pattern";
    const auto run = model.run(prompt, {.save = {site}});
    const auto expected = mx::contiguous(mx::squeeze(run[site], 0));
    ASSERT_EQ(expected.shape(), mx::Shape({6, 7, 7}));
    test::expect_close(
        mx::array(found.pattern.data(), {6, 7, 7}),
        expected,
        1e-5,
        found.pattern.size(),
        site);
    for (int head = 0; head < 6; ++head) {
      double bits = 0;
      for (size_t i = 0; i < 7; ++i)
        for (size_t j = 0; j <= i; ++j) {
          const auto p = static_cast<double>(found.at(head, i, j));
          if (p > 0) bits -= p * std::log2(p);
        }
      EXPECT_NEAR(found.entropy.at({found.layer, head}), bits / 7, 1e-4);
      EXPECT_GT(bits, 0.1);
    }
  }
}

TEST(Attention, HasTheHeadsOwnScores) {
  const auto model = test::tiny_model();
  const auto found = attention(model, prompt);
  const auto scores = head_scores(model, prompt);
  EXPECT_EQ(found.layer, -1);
  EXPECT_TRUE(found.pattern.empty());
  size_t compared = 0;
  for (const auto& [grid, kind] :
       {std::pair{&found.first_token, HeadKind::first_token},
        {&found.previous_token, HeadKind::previous_token},
        {&found.current_token, HeadKind::current_token}})
    for (int layer = 0; layer < 3; ++layer)
      for (int head = 0; head < 6; ++head, ++compared)
        EXPECT_NEAR(
            grid->at({layer, head}), scores[kind].at({layer, head}), 1e-5);
  EXPECT_EQ(compared, 54u);
}

TEST(Attention, OfOneTokenLooksAtItself) {
  const auto found =
      attention(test::tiny_model(), std::vector<int>{3}, {.layer = 1});
  for (int head = 0; head < 6; ++head) {
    EXPECT_NEAR(found.at(head, 0, 0), 1, 1e-6);
    EXPECT_NEAR(found.entropy.at({1, head}), 0, 1e-6);
  }
}

TEST(Attention, SaysWhatIsWrong) {
  const auto model = test::tiny_model();
  const auto kind = [&](const Inputs& inputs, std::optional<int> layer) {
    try {
      attention(model, inputs, {.layer = layer});
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::bad_data;
  };
  EXPECT_EQ(kind(prompt, 3), ErrorKind::out_of_range);
  EXPECT_EQ(kind(prompt, -4), ErrorKind::out_of_range);
  EXPECT_EQ(kind(Inputs::Rows{prompt, prompt}, {}), ErrorKind::usage);
}

}  // namespace
}  // namespace mlxterp
