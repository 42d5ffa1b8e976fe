#include "mlxterp/spec/choice.h"

#include <gtest/gtest.h>

#include "tests/spec/model.h"

namespace mlxterp::spec {
namespace {

using test::message_of;

TEST(Choice, WordsMeanWhatTheySay) {
  EXPECT_EQ(
      parse_axes({"layer,pos", "head, neuron"}),
      (std::vector{Axis::layer, Axis::position, Axis::head, Axis::neuron}));
  EXPECT_EQ(parse_axes({"position"}), std::vector{Axis::position});
  EXPECT_EQ(parse_direction("denoise"), Direction::denoise);
  EXPECT_EQ(parse_direction("noise"), Direction::noise);
  EXPECT_EQ(parse_ablation("zero"), Ablation::zero);
  EXPECT_EQ(parse_ablation("mean"), Ablation::mean);
  EXPECT_EQ(parse_ablation("resample"), Ablation::resample);
  EXPECT_EQ(parse_unit("component"), Unit::component);
  EXPECT_EQ(parse_unit("head"), Unit::head);
  EXPECT_EQ(parse_unit("neuron"), Unit::neuron);
  EXPECT_EQ(parse_head_measure("mean"), HeadMeasure::mean);
  EXPECT_EQ(parse_head_measure("mul"), HeadMeasure::mul);
  EXPECT_EQ(parse_head_measure("abs"), HeadMeasure::abs);
  EXPECT_EQ(parse_head_ablation("zero"), AblationOptions::Value::zero);
  EXPECT_EQ(parse_head_ablation("mean"), AblationOptions::Value::mean);
}

TEST(Choice, NamesAreTheWords) {
  EXPECT_STREQ(name(Direction::noise), "noise");
  EXPECT_STREQ(name(Direction::denoise), "denoise");
  EXPECT_STREQ(name(Ablation::resample), "resample");
  EXPECT_STREQ(name(Unit::neuron), "neuron");
  EXPECT_STREQ(name(AblationOptions::Value::mean), "mean");
}

TEST(Choice, AnotherWordIsToldTheWordsThereAre) {
  const auto tells = [](const auto& work, const char* name, const char* word) {
    const auto message = message_of(work);
    EXPECT_EQ(message.find(name), 0u) << message;
    EXPECT_NE(message.find(word), std::string::npos) << message;
  };
  tells([] { parse_axes({"layers"}, "--by"); }, "--by 'layers'", "neuron");
  tells([] { parse_axes({"layer,"}, "--by"); }, "--by", "empty item");
  tells([] { parse_direction("up"); }, "direction 'up'", "denoise, noise");
  tells([] { parse_ablation("none", "--how"); }, "--how 'none'", "resample");
  tells([] { parse_unit(""); }, "unit ''", "component, head, neuron");
  tells([] { parse_head_measure("x"); }, "measure 'x'", "mean, mul, abs");
  tells([] { parse_head_ablation("ZERO"); }, "ablation 'ZERO'", "zero, mean");
}

}  // namespace
}  // namespace mlxterp::spec
