// JSON from outside: what is refused, that work grows with the text and not
// with its square, and that no locale has a say.

#include "io/json.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <ctime>

#include "core/fail.h"
#include "mlxterp/core/limits.h"
#include "tests/bad_input.h"
#include "tests/decimal_comma.h"

namespace mlxterp {
namespace {

using nlohmann::json;

json parse(std::string_view text) {
  return parse_json(text, "test", "the text");
}

TEST(Json, IsWhatNlohmannReads) {
  const std::string_view texts[] = {
      "1",
      "-0.0",
      "\"\\u00e9\\ud83d\\ude00\"",
      "[]",
      "{}",
      "null",
      R"([1, -2, 18446744073709551615, 0.5, 1e300, true, false, null, ["a"]])",
      R"({"b": {"a": [{}, {"x": 1}], "c": "d"}, "a": -1.5e-3, "": ""})"};
  for (const auto text : texts)
    EXPECT_EQ(parse(text), json::parse(text)) << text;
  EXPECT_EQ(std::size(texts), 8u);
}

TEST(Json, InfinitiesAsPythonWritesThemAreQuoted) {
  const std::string text =
      R"({"limit": [0.0, Infinity], "a": -Infinity, "b": NaN, )"
      R"("c": "Infinity, \"NaN\\", "d": {"__float__": "Infinity"}})";
  const auto quoted = parse(with_quoted_infinities(text));
  const auto number = [](const char* it) { return json{{"__float__", it}}; };
  EXPECT_EQ(quoted["limit"], (json{0.0, number("Infinity")}));
  EXPECT_EQ(quoted["a"], number("-Infinity"));
  EXPECT_EQ(quoted["b"], number("NaN"));
  EXPECT_EQ(quoted["c"], "Infinity, \"NaN\\");
  EXPECT_EQ(quoted["d"], number("Infinity"));
  // What has none, valid or not, is what it was.
  for (const std::string plain : {R"({"a": "Infinity"})", "", "{", "\"\\"})
    EXPECT_EQ(with_quoted_infinities(plain), plain);
}

TEST(Json, RefusesWhatIsNone) {
  const std::pair<std::string, const char*> texts[] = {
      {"", "not valid JSON"},
      {"{", "not valid JSON"},
      {"[1,]", "not valid JSON"},
      {"[1] 2", "not valid JSON"},
      {"{\"a\":1e999}", "not valid JSON"},
      {"\"\xff\"", "not valid JSON"},
      {R"({"a": {"b": 1, "b": 2}})", "the key \"b\" twice"},
      {std::string(65, '['), "nested more than 64 deep"},
      {std::string(1u << 20, '['), "nested more than 64 deep"}};
  for (const auto& [text, says] : texts) {
    SCOPED_TRACE(printable(text, 20));
    testing::expect_refused(
        [&] { return parse(text).dump(); }, ErrorKind::bad_data, {says});
  }
  EXPECT_NO_THROW(parse(std::string(64, '[') + std::string(64, ']')));
}

TEST(Json, RefusesMoreValuesThanItHolds) {
  std::string text = "[0";
  for (size_t i = 0; i < limits::json_values; ++i)
    text += ",0";
  text += ']';
  testing::expect_refused(
      [&] { return parse(text).dump(); },
      ErrorKind::bad_data,
      {"holds more than 4194304 values"});
}

// Eight times the members take about eight times as long, not sixty-four.
TEST(Json, WorkGrowsWithTheText) {
  const auto object = [](int members) {
    std::string text = "{";
    for (int i = 0; i < members; ++i)
      text += fmt::format("{}\"member {}\":{{\"a\":[1]}}", i ? "," : "", i);
    return text + "}";
  };
  const auto list = [](int members) {
    std::string text = "[";
    for (int i = 0; i < members; ++i)
      text += fmt::format("{}{{\"rfilename\":\"file {}\"}}", i ? "," : "", i);
    return text + "]";
  };
  const auto cost = [](const std::string& text) {
    const auto begin = std::clock();
    EXPECT_FALSE(parse(text).empty());
    return static_cast<double>(std::clock() - begin);
  };
  constexpr int few = 10'000, many = 80'000;
  for (const auto& [small, large] :
       {std::pair{object(few), object(many)}, std::pair{list(few), list(many)}})
    EXPECT_LT(cost(large), 30 * cost(small) + 0.2 * CLOCKS_PER_SEC);
}

TEST(Json, KnowsNoLocale) {
  const std::string text = R"({"eps": 1e-05, "theta": 10000.5, "x": [0.25]})";
  const auto plain = parse(text);
  const testing::DecimalComma comma;
  EXPECT_EQ(parse(text), plain);
  EXPECT_EQ(parse(text)["theta"].get<double>(), 10000.5);
  EXPECT_EQ(parse(text).dump(), plain.dump());
}

}  // namespace
}  // namespace mlxterp
