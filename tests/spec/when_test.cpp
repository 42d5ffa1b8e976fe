#include "mlxterp/spec/when.h"

#include <gtest/gtest.h>

#include "mlxterp/spec/edit.h"
#include "tests/spec/model.h"

namespace mlxterp::spec {
namespace {

using test::message_of;

TEST(ParseWhen, IsWhatItSays) {
  EXPECT_EQ(parse_when("prompt"), (When{0, 0}));
  EXPECT_EQ(parse_when("generated"), (When{1, When::always}));
  EXPECT_EQ(parse_when(" all "), (When{0, When::always}));
  EXPECT_EQ(parse_when("step:3"), (When{3, 3}));
  EXPECT_EQ(parse_when("step:0"), When::prompt());
  EXPECT_EQ(parse_when("steps:2..5"), (When{2, 5}));
  EXPECT_EQ(parse_when("steps:2.."), (When{2, When::always}));
  for (const auto* text :
       {"prompt", "generated", "all", "step:3", "steps:2..5", "steps:4.."})
    EXPECT_EQ(text_of(parse_when(text)), text);
}

TEST(ParseWhen, WhatIsNoTimeIsRefused) {
  for (const auto* text :
       {"",
        "later",
        "step:",
        "step:-1",
        "step:x",
        "step:99999999999",
        "steps:5..2",
        "steps:..3",
        "steps:3",
        "steps:-2..3",
        "steps:1..x"}) {
    const auto message = message_of([&] { parse_when(text, "--when"); });
    EXPECT_NE(message.find("--when"), std::string::npos) << text << message;
    EXPECT_NE(message.find("step 0 is the prompt"), std::string::npos) << text;
  }
}

TEST(ParseWhen, IsAPartOfEdits) {
  EXPECT_EQ(
      parse_intervention("during(prompt, scale(2))").reach(),
      Intervention::Reach::position);
  EXPECT_EQ(
      parse_intervention("on_prompts([0,2], during(steps:1.., zero_out))")
          .reach(),
      Intervention::Reach::sequence);
  const auto message =
      message_of([] { parse_intervention("during(soon, scale(2))"); });
  EXPECT_NE(message.find("column 8"), std::string::npos) << message;
}

}  // namespace
}  // namespace mlxterp::spec
