#include "mlxterp/analysis/local_lens.h"

#include <gtest/gtest.h>

#include <cmath>
#include <iostream>

#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/core/error.h"
#include "mlxterp/io/safetensors.h"
#include "tests/analysis/whole_model.h"
#include "tests/families.h"
#include "tests/temp_folder.h"
#include "tests/tiny_model.h"
#include "trace/stepper.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;
using test::apart;

const std::vector<int> tokens = {1, 4};
const std::vector<int> ids = {7, 13, 21, 5, 2, 30};
constexpr int skip = 1;

// The definition, by differentiating all layers at once: [token, pos, d_model].
mx::array plainly(
    const InterpretableModel& model, const std::vector<int>& rows, int layer) {
  const int length = static_cast<int>(ids.size());
  const int k = static_cast<int>(rows.size());
  const int d = model.decoder().config().d_model;
  const auto w = mx::astype(
      model.decoder().unembed.weight().take(
          mx::array(rows.data(), {k}, mx::int32)),
      mx::float32);
  const auto counts = mx::astype(
      mx::greater_equal(mx::arange(length), mx::array(skip)), mx::float32);
  const auto gradient = test::gradient_through(
      model,
      ids,
      layer,
      mx::multiply(mx::expand_dims(w, 1), mx::reshape(counts, {1, length, 1})));
  return mx::slice(gradient, {0, skip, 0}, {k, length, d});
}

TEST(LocalLens, IsTheGradientAtEachCellInEveryFamily) {
  float worst = 0;
  size_t compared = 0;
  std::string at;
  for (const auto& variant : test::supported_variants()) {
    const auto model = test::load_variant(variant, mx::float32);
    // Two rows walk through whole layers, seven through their parts.
    for (const auto& rows : {tokens, std::vector{1, 4, 2, 3, 0, 6, 5}}) {
      const auto found = local_lens(model, ids, rows, {.skip = skip});
      const int n = model.decoder().config().n_layers;
      ASSERT_EQ(static_cast<int>(found.layers.size()), n) << variant;
      const auto error = apart(found.directions[0], plainly(model, rows, 0));
      EXPECT_LE(error, 1e-5f) << variant;
      if (error > worst) at = variant;
      worst = std::max(worst, error);
    }
    ++compared;
  }
  std::cout << fmt::format(
      "{} families, {} at most, in {}\n", compared, worst, at);
  EXPECT_GE(compared, 100u);
}

// A corpus of this prompt alone: its lens is the mean of these, and a lens'
// last position is no source.
TEST(LocalLens, HasTheCorpusLensAsItsMean) {
  const auto model = test::tiny_model();
  auto longer = ids;
  longer.push_back(9);
  JacobianOptions options;
  options.skip = skip;
  const auto lens = fit_jacobian_lens(model, {longer}, options).lens;
  const auto found =
      local_lens(model, ids, tokens, {.skip = skip, .lens = &lens});
  ASSERT_EQ(found.cosines.size(), 3u);
  for (const int layer : lens.layers) {
    const auto i = static_cast<size_t>(layer);
    const auto mean = lens.directions(model, tokens, layer);
    EXPECT_LE(apart(mx::mean(found.directions[i], 1), mean), 1e-5f);
    const auto& local = found.directions[i];
    for (int k = 0; k < 2; ++k)
      for (int t = 0; t < 5; ++t) {
        const auto v = mx::slice(local, {k, t, 0}, {k + 1, t + 1, 24});
        const auto m = mx::slice(mean, {k, 0}, {k + 1, 24});
        const auto dot = mx::sum(mx::multiply(v, m)).item<float>();
        const auto lengths = std::sqrt(
            mx::sum(mx::square(v)).item<float>() *
            mx::sum(mx::square(m)).item<float>());
        EXPECT_NEAR(
            mx::slice(found.cosines[i], {k, t}, {k + 1, t + 1}).item<float>(),
            dot / lengths,
            1e-5f);
      }
  }
  // The last layer is W_U's, in the corpus as here.
  EXPECT_LE(apart(found.cosines[2], mx::ones({2, 5})), 1e-6f);
  const testing::TempFolder folder;
  found.save(folder / "l.safetensors");
  EXPECT_THROW(found.save(folder / "l.safetensors"), Error);
  const auto file = Safetensors::open(folder / "l.safetensors");
  EXPECT_EQ(file.tensors().size(), 6u);
  EXPECT_EQ(file.metadata().at("tokens"), "[1,4]");
}

TEST(LocalLens, RefusesWhatCannotBe) {
  const auto model = test::tiny_model();
  EXPECT_THROW(local_lens(model, ids, tokens, {.skip = 6}), Error);
  EXPECT_THROW(local_lens(model, ids, tokens, {.skip = -1}), Error);
  EXPECT_THROW(local_lens(model, ids, {97}), Error);
  EXPECT_THROW(local_lens(model, ids, {}), Error);
  EXPECT_THROW(local_lens(model, {1, 97}, tokens), Error);
  EXPECT_THROW(local_lens(model, ids, tokens, {.layers = {3}}), Error);
  JacobianOptions options;
  options.skip = 1;
  const auto lens = fit_jacobian_lens(model, {ids}, options).lens;
  auto deep = test::tiny_config();
  deep.n_layers = 4;
  EXPECT_THROW(
      local_lens(test::tiny_model(deep), ids, tokens, {.lens = &lens}), Error);
}

}  // namespace
}  // namespace mlxterp
