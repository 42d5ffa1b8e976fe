// No weight of any family is ignored: each is changed alone, and the logits
// move.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "tests/compare.h"
#include "tests/families.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

// Not the same amount everywhere: a norm would take that out again.
mx::array changed(const mx::array& value) {
  const auto steps =
      mx::astype(mx::arange(static_cast<int>(value.size())), mx::float32);
  return mx::add(
      value,
      mx::multiply(
          mx::array(0.1f),
          mx::reshape(
              mx::sin(mx::add(steps, mx::array(1.0f))), value.shape())));
}

// Adds the same to the scores of all sources of a destination, which softmax
// does not see: where keys are neither rotated nor normed behind it.
bool moves_nothing(const Decoder& decoder, const std::string& path) {
  if (!path.ends_with("k_proj.bias")) return false;
  const auto* attention =
      decoder.layers[static_cast<size_t>(std::stoi(path.substr(7)))]
          ->attention();
  if (!attention) return false;
  const auto& config = attention->config();
  return config.rope.dims == 0 &&
         config.qk_norm == nn::AttentionConfig::QkNorm::none;
}

// The final norm takes it out again, but for its eps: a small one shows.
bool is_divided_out(const Decoder& decoder, const std::string& path) {
  return path ==
         fmt::format("layers.{}.layer_scalar", decoder.config().n_layers - 1);
}

class Parameters : public testing::TestWithParam<std::string> {};

TEST_P(Parameters, EachMovesTheLogits) {
  const auto reference = test::expected(GetParam());
  const auto decoder = load_decoder(
      Checkpoint::open(test::families_root / GetParam()),
      {.dtype = mx::float32});
  const InterpretableModel model(decoder);
  const auto prompt = test::integers(reference.at("ids"));
  const auto logits = [&] {
    return model.run(prompt, {.save = {"logits"}})["logits"];
  };
  const auto plain = logits();
  size_t moved = 0, still = 0;
  for (const auto& [path, parameter] : decoder->mutable_parameters()) {
    const auto before = *parameter;
    *parameter = is_divided_out(*decoder, path)
                     ? mx::multiply(before, mx::array(0.01f))
                     : changed(before);
    const double by = test::max_difference(logits(), plain);
    if (moves_nothing(*decoder, path)) {
      EXPECT_LE(by, 1e-5) << path;
      ++still;
    } else {
      EXPECT_GE(by, 1e-3) << path;
      ++moved;
    }
    *parameter = before;
  }
  test::expect_repeated(logits(), plain, "with every weight as it was");
  EXPECT_GE(moved, 16u);
  std::printf("%zu weights moved the logits, %zu cannot\n", moved, still);
}

INSTANTIATE_TEST_SUITE_P(
    All,
    Parameters,
    testing::ValuesIn(test::supported_variants()),
    [](const auto& tested) { return test::test_name(tested.param); });

}  // namespace
}  // namespace mlxterp
