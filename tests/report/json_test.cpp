#include "report/json.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <locale>

#include "tests/spec/model.h"

namespace mlxterp::report {
namespace {

TEST(Number, IsTheShortestThatMeansTheFloat) {
  EXPECT_EQ(number(0.1f).dump(), "0.1");
  EXPECT_EQ(number(-2.0f).dump(), "-2.0");
  EXPECT_EQ(number(1e-5f).dump(), "1e-05");
  const float values[] = {
      1.0f / 3,
      3.4028235e38f,
      1.4e-45f,
      -0.0f,
      16777216,
      std::numeric_limits<float>::min()};
  for (const float value : values)
    EXPECT_EQ(
        static_cast<float>(Json::parse(number(value).dump()).get<double>()),
        value);
  for (const float value : {NAN, INFINITY, -INFINITY})
    EXPECT_TRUE(number(value).is_null());
  EXPECT_TRUE(number(std::nan("")).is_null());
}

struct DecimalComma : std::numpunct<char> {
  char do_decimal_point() const override { return ','; }
};

TEST(Number, IsTheSameInAnyLocale) {
  const auto before =
      std::locale::global(std::locale(std::locale(), new DecimalComma));
  const auto text = text_of(Json{number(0.5f), number(0.25)}, -1);
  std::locale::global(before);
  EXPECT_EQ(text, "[0.5,0.25]");
}

// Valid JSON and valid UTF-8 that a terminal only shows.
TEST(TextOf, DoesNothingToATerminal) {
  const std::string text =
      "é 日本 😀 \xff \x1b[31m \x7f \xC2\x9B \xE2\x80\xAE \xE2\x80\xA8 "
      "\xEF\xBB\xBF";
  const auto json = text_of(Json{{"a", text}});
  for (const auto* bad :
       {"\xff",
        "\x1b",
        "\x7f",
        "\xC2\x9B",
        "\xE2\x80\xAE",
        "\xE2\x80\xA8",
        "\xEF\xBB\xBF"})
    EXPECT_EQ(json.find(bad), std::string::npos) << json;
  EXPECT_NE(json.find("é 日本 😀"), std::string::npos) << json;
  const auto back = Json::parse(json)["a"].get<std::string>();
  EXPECT_EQ(back.find("é 日本 😀 \xEF\xBF\xBD \x1b[31m \x7f \xC2\x9B"), 0u);
}

TEST(Metadata, IsJSONOfEachKind) {
  const auto out = metadata(
      {{"a", nullptr},
       {"b", true},
       {"c", int64_t{3}},
       {"d", 0.5},
       {"e", std::string("x\"")},
       {"f", std::vector{1, 2}},
       {"g", std::vector<std::string>{"y"}},
       {"h", std::vector<std::vector<int>>{{1}, {2, 3}}},
       {"i", std::nan("")}});
  EXPECT_EQ(
      out,
      (std::map<std::string, std::string>{
          {"a", "null"},
          {"b", "true"},
          {"c", "3"},
          {"d", "0.5"},
          {"e", "\"x\\\"\""},
          {"f", "[1,2]"},
          {"g", "[\"y\"]"},
          {"h", "[[1],[2,3]]"},
          {"i", "null"}}));
}

// Embeddings often have more rows than the tokenizer has tokens.
TEST(Labels, AnIdWithoutATokenIsItsNumber) {
  const auto model = test::demo_without_weights();
  const int beyond = model.tokenizer().vocab_size() + 7;
  const int mary = model.tokenizer().single_token(" Mary");
  const auto number = fmt::format("<id {}>", beyond);
  EXPECT_EQ(
      labels(model, {mary, beyond, mary}),
      (std::vector<std::string>{" Mary", number, " Mary"}));
  EXPECT_EQ(label(model, beyond), number);
  // Tokens that share a character are labelled together.
  const auto ids = model.tokenizer().encode("\xF0\x9F\xA5\xB8");
  ASSERT_GT(ids.size(), 1u);
  EXPECT_EQ(labels(model, ids), model.tokenizer().labels(ids));
}

}  // namespace
}  // namespace mlxterp::report
