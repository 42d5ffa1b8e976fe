#include "mlxterp/spec/range.h"

#include <gtest/gtest.h>

#include "mlxterp/core/error.h"
#include "mlxterp/core/limits.h"
#include "tests/spec/model.h"

namespace mlxterp::spec {
namespace {

using Texts = std::vector<std::string>;
using Numbers = std::vector<int>;
using test::message_of;

TEST(ParseList, SplitsAtCommasOutsideBrackets) {
  EXPECT_EQ(parse_list({"a, b ,c", "d"}), (Texts{"a", "b", "c", "d"}));
  EXPECT_EQ(
      parse_list({"layers.{1,4}.z,logits"}),
      (Texts{"layers.{1,4}.z", "logits"}));
  EXPECT_EQ(parse_list({"f(1,2),g[3,4]"}), (Texts{"f(1,2)", "g[3,4]"}));
  EXPECT_EQ(parse_list({"a},b"}), (Texts{"a}", "b"}));
  EXPECT_EQ(parse_list({}), Texts{});
}

TEST(ParseList, RefusesEmptyItems) {
  for (const auto* text : {"", ",", "a,", ",a", "a,,b", " ", "a, ,b"})
    EXPECT_EQ(
        message_of([&] { parse_list({text}, "--save"); }).find("--save '"), 0u)
        << text;
}

TEST(ParseNumbers, CountsBothEndsAndFromTheEnd) {
  EXPECT_EQ(
      parse_numbers({"0,5", "10..12,-1"}), (Numbers{0, 5, 10, 11, 12, -1}));
  EXPECT_EQ(parse_numbers({"-3..-1"}), (Numbers{-3, -2, -1}));
  EXPECT_EQ(parse_numbers({"4..4"}), (Numbers{4}));
  EXPECT_EQ(parse_numbers({" 1, 2 "}), (Numbers{1, 2}));
  EXPECT_EQ(parse_numbers({}), Numbers{});
  EXPECT_EQ(
      parse_numbers({"2147483646..2147483647"}),
      (Numbers{2147483646, 2147483647}));
}

TEST(ParseNumbers, NamesWhatIsNoNumber) {
  for (const auto* text :
       {"x",
        "1.5",
        "1e3",
        "+1",
        "0x1",
        "1..",
        "..2",
        "7..3",
        "1...3",
        "1..2..3",
        "2147483648",
        "1 2",
        "--1",
        "NaN"}) {
    const auto message = message_of([&] { parse_numbers({text}, "--layers"); });
    EXPECT_EQ(message.find("--layers '"), 0u) << message;
    EXPECT_NE(message.find(text), std::string::npos) << message;
  }
  // What is not UTF-8 is shown, not passed on.
  EXPECT_NE(
      message_of([] { parse_numbers({"\xff\x1b"}); }).find("\\xff\\x1b"),
      std::string::npos);
}

// Few bytes shall not make many numbers, in one range or in thousands.
TEST(ParseNumbers, AreBoundedInAll) {
  const auto most = static_cast<int>(limits::spec_numbers);
  EXPECT_EQ(
      parse_numbers({"1.." + std::to_string(most)}).size(),
      limits::spec_numbers);
  message_of([&] { parse_numbers({"0.." + std::to_string(most)}); });
  message_of([] { parse_numbers({"-2147483648..2147483647"}); });
  std::string many = "0..1000000";
  for (int i = 0; i < 2000; ++i)
    many += ",0..1000000";
  EXPECT_NE(
      message_of([&] { parse_numbers({many}); }).find("more than"),
      std::string::npos);
  message_of([] { parse_numbers({std::string(limits::spec_bytes + 1, '1')}); });
  message_of(
      [] { parse_numbers(Texts(limits::spec_bytes / 2 + 1, "1"), "--ids"); });
}

TEST(ParsePositionMap, PairsPositions) {
  using Pairs = std::vector<std::pair<int, int>>;
  EXPECT_EQ(
      parse_position_map({"0..2:1..3,5:4"}),
      (Pairs{{0, 1}, {1, 2}, {2, 3}, {5, 4}}));
  EXPECT_EQ(parse_position_map({}), Pairs{});
  for (const auto* text : {"1", "1:", ":1", "0..2:1", "1:2:3", "a:b"})
    EXPECT_EQ(
        message_of([&] {
          parse_position_map({text}, "--align");
        }).find("--align '"),
        0u)
        << text;
  EXPECT_NE(
      message_of([] {
        parse_position_map({"0..2:1..2"});
      }).find("3 clean and 2 corrupted"),
      std::string::npos);
  message_of([] { parse_position_map({"0..1048576:0..1048576"}); });
}

}  // namespace
}  // namespace mlxterp::spec
