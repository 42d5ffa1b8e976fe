#include "mlxterp/spec/head.h"

#include <gtest/gtest.h>

#include "tests/spec/model.h"

namespace mlxterp::spec {
namespace {

using test::message_of;

TEST(ParseHead, EachSpellingIsTheSameHead) {
  const Head head{23, 3};
  for (const auto* text : {"L23H3", "23.3", "23H3", "L23.3", " L23H3 "})
    EXPECT_EQ(parse_head(text), head) << text;
  EXPECT_EQ(name(head), "L23H3");
  EXPECT_EQ(parse_head(name(head)), head);
  EXPECT_EQ(parse_head("-1.0"), (Head{-1, 0}));
  EXPECT_EQ(
      parse_heads({"L5H1, 20.3", "0H0"}),
      (std::vector<Head>{{5, 1}, {20, 3}, {0, 0}}));
}

TEST(ParseHead, RefusesTheRest) {
  for (const auto* text :
       {"",
        "23",
        "L23",
        "H3",
        "23.",
        ".3",
        "23.3.3",
        "L23H",
        "l23h3",
        "23-3",
        "1.-1",
        "L23H3.q",
        "1e1.2",
        "99999999999.1"}) {
    const auto message = message_of([&] { parse_head(text, "--head"); });
    EXPECT_EQ(message.find("--head '"), 0u) << message;
    EXPECT_NE(message.find("L23H3"), std::string::npos) << message;
  }
}

TEST(ParseHeadChoice, IsOfEveryLayerOrOfSome) {
  using Numbers = std::vector<int>;
  const auto every = parse_head_choice({"3,5..7"});
  EXPECT_EQ(every.layers, Numbers{});
  EXPECT_EQ(every.heads, (Numbers{3, 5, 6, 7}));
  for (const auto* text : {"L23H3", "23.3"}) {
    const auto one = parse_head_choice({text});
    EXPECT_EQ(one.layers, Numbers{23});
    EXPECT_EQ(one.heads, Numbers{3});
  }
  const auto grid = parse_head_choice({"L2H1,L2H4", "3.1", "3.4", "L2H1"});
  EXPECT_EQ(grid.layers, (Numbers{2, 3}));
  EXPECT_EQ(grid.heads, (Numbers{1, 4}));
  EXPECT_TRUE(parse_head_choice({}).heads.empty());
  for (const std::vector<std::string>& wrong :
       {std::vector<std::string>{"L2H1,L3H4"},
        {"L2H1", "4"},
        {"4,L2H1"},
        {"L2H"},
        {"4..2"}})
    EXPECT_EQ(
        message_of([&] {
          parse_head_choice(wrong, "--heads");
        }).find("--heads"),
        0u);
}

TEST(ParseReceiver, IsAHeadAndWhatItReads) {
  using Input = Receiver::Input;
  for (const auto* text : {"24.6.q", "L24H6.q", "24H6.q"}) {
    const auto receiver = parse_receiver(text);
    EXPECT_EQ(receiver.layer, 24) << text;
    EXPECT_EQ(receiver.head, 6) << text;
    EXPECT_EQ(receiver.input, Input::q) << text;
    EXPECT_EQ(spell(receiver), "L24H6.q");
  }
  const auto many = parse_receivers({"24.6.k,-1.0.v", "L2H1.q"});
  ASSERT_EQ(many.size(), 3u);
  EXPECT_EQ(many[0].input, Input::k);
  EXPECT_EQ(many[1].layer, -1);
  EXPECT_EQ(many[1].input, Input::v);
  EXPECT_EQ(spell(many[2]), "L2H1.q");
  for (const auto* text :
       {"",
        "24.6",
        "L24H6",
        "24.6.z",
        "24.6.q.q",
        "24.q",
        "q",
        "24.6.",
        "a.b.q"})
    EXPECT_NE(
        message_of([&] { parse_receiver(text, "--receiver"); }).find("L20H3.q"),
        std::string::npos)
        << text;
}

}  // namespace
}  // namespace mlxterp::spec
