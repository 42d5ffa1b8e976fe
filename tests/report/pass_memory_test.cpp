// What a pass is said to take, beside what MLX takes.

#include "report/pass_memory.h"

#include <gtest/gtest.h>

#include "mlx/memory.h"
#include "mlx/stream.h"
#include "mlxterp/nn/delta_net.h"
#include "mlxterp/nn/short_conv.h"
#include "mlxterp/nn/state_space.h"
#include "tests/families.h"
#include "tests/tiny_model.h"

namespace mx = mlx::core;

namespace mlxterp::report {
namespace {

// An estimate may be so much larger or smaller than what was measured.
constexpr double larger = 6, smaller = 2;

void expect_about(const InterpretableModel& model, const std::string& name) {
  const auto& config = model.decoder().config();
  const int tokens = std::min(128, config.context);
  std::vector<int> ids;
  for (int i = 0; i < tokens; ++i)
    ids.push_back((7 * i + 3) % config.vocab);
  const auto run = [&] {
    auto logits = model(ids);
    logits.eval();
  };
  run();
  const double told = pass_bytes(config, tokens, 4);
  // What is on its way differs from run to run, and is little where the cores
  // are busy: the most of some, of many where they took little.
  double taken = 0;
  for (int i = 0; i < 3 || (i < 50 && told > larger * taken); ++i) {
    mx::synchronize();
    const auto before = mx::get_active_memory();
    mx::reset_peak_memory();
    run();
    mx::synchronize();
    taken =
        std::max(taken, static_cast<double>(mx::get_peak_memory() - before));
  }
  ::testing::Test::RecordProperty(
      "ratio of " + name, fmt::format("{:.3f}", told / taken));
  ASSERT_GT(taken, 0) << name;
  EXPECT_LE(told, larger * taken) << name << " takes " << taken;
  EXPECT_GE(told, taken / smaller) << name << " takes " << taken;
}

class PassMemory : public ::testing::TestWithParam<std::string> {};

TEST_P(PassMemory, IsAboutWhatMlxTakes) {
  expect_about(
      InterpretableModel::load((test::families_root / GetParam()).string()),
      GetParam());
}

// Heads and memories as wide as those of published models.
TEST(PassMemoryOfMixers, IsAboutWhatMlxTakes) {
  auto config = test::tiny_config();
  config.d_model = 256;
  config.context = 1000;
  config.d_mlp = 0;
  const std::pair<const char*, MakeMixer> mixers[] = {
      {"state space",
       [](const DecoderConfig& own, int) {
         return std::make_unique<nn::StateSpace>(nn::StateSpaceConfig{
             .d_model = own.d_model,
             .n_heads = 8,
             .d_head = 64,
             .n_groups = 1,
             .d_state = 128,
             .conv_width = 4});
       }},
      {"delta net",
       [](const DecoderConfig& own, int) {
         return std::make_unique<nn::DeltaNet>(nn::DeltaNetConfig{
             .d_model = own.d_model,
             .n_key_heads = 2,
             .n_value_heads = 4,
             .d_key = 128,
             .d_value = 128,
             .conv_width = 4});
       }},
      {"short convolution", [](const DecoderConfig& own, int) {
         return std::make_unique<nn::ShortConv>(own.d_model, 3, false);
       }}};
  for (const auto& [name, mixer] : mixers) {
    config.mixer = mixer;
    expect_about(test::tiny_model(config), name);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    PassMemory,
    ::testing::ValuesIn(test::supported_variants()),
    [](const auto& variant) {
      auto name = variant.param;
      std::ranges::replace_if(
          name, [](char c) { return !std::isalnum(c); }, '_');
      return name;
    });

}  // namespace
}  // namespace mlxterp::report
