#include "mlxterp/spec/task.h"

#include <gtest/gtest.h>

#include "tests/spec/model.h"

namespace mlxterp::spec {
namespace {

using test::demo_without_weights;
using test::message_of;

TEST(ParseTask, ReadsTextsAndIds) {
  const auto model = demo_without_weights();
  const auto& tokenizer = model.tokenizer();
  const auto task = parse_task(model, R"({"task": "mine", "note": 1, "pairs": [
      {"clean": "Mary met John, John left", "corrupt": "Mary met John, Mary left",
       "answers": [" Mary"], "foils": [" John", 5]},
      {"clean": "for people", "clean_ids": [3, 4], "corrupt_ids": [5, 6],
       "answers": [{"id": 7, "text": "x"}], "foils": [8]}]})");
  EXPECT_EQ(task.name, "mine");
  ASSERT_EQ(task.pairs.size(), 2u);
  const auto& first = task.pairs[0];
  EXPECT_EQ(first.clean_ids, tokenizer.encode("Mary met John, John left"));
  EXPECT_EQ(first.corrupt, "Mary met John, Mary left");
  EXPECT_EQ(first.answers, std::vector{tokenizer.single_token(" Mary")});
  EXPECT_EQ(first.foils, (std::vector{tokenizer.single_token(" John"), 5}));
  EXPECT_EQ(task.pairs[1].clean_ids, (std::vector{3, 4}));
  EXPECT_EQ(task.pairs[1].corrupt_ids, (std::vector{5, 6}));
  EXPECT_EQ(task.pairs[1].answers, std::vector{7});
}

TEST(ParseTask, WarnsOfAWordWithoutItsSpaceOnce) {
  const auto model = demo_without_weights();
  std::vector<std::string> told;
  const std::string pair =
      R"({"clean": "a b", "corrupt": "a c", "answers": ["Mary"], "foils": [" John"]})";
  parse_task(
      model,
      R"({"pairs": [)" + pair + "," + pair + "]}",
      {.name = "it", .warn = [&](std::string_view sentence) {
         told.emplace_back(sentence);
       }});
  ASSERT_EQ(told.size(), 1u);
  EXPECT_NE(told[0].find("'Mary'"), std::string::npos);
}

TEST(ParseTask, SaysWhatIsWrong) {
  const auto model = demo_without_weights();
  const auto with = [](const std::string& pair) {
    return R"({"pairs": [)" + pair + "]}";
  };
  const std::string ends = R"(, "answers": [1], "foils": [2]})";
  const std::pair<std::string, const char*> wrong[] = {
      {"[]", "no list of pairs"},
      {R"({"pairs": []})", "no list of pairs"},
      {R"({"pairs": {}})", "no list of pairs"},
      {with("3"), "pair 0 is not an object"},
      {with(R"({"corrupt": "a")" + ends), "pair 0 has no 'clean'"},
      {with(R"({"clean": 3, "corrupt": "a")" + ends), "pair 0 has no 'clean'"},
      {with(R"({"clean": "a b", "corrupt": "a")" + ends), "equally long"},
      {with(R"({"clean_ids": [], "corrupt_ids": [1])" + ends), "'clean_ids'"},
      {with(R"({"clean_ids": [1.5], "corrupt_ids": [1])" + ends), "token id"},
      {with(R"({"clean_ids": [-1], "corrupt_ids": [1])" + ends), "token id"},
      {with(R"({"clean_ids": [1e12], "corrupt_ids": [1])" + ends), "token id"},
      {with(R"({"clean": "a", "corrupt": "b", "answers": [1]})"), "'foils'"},
      {with(R"({"clean": "a", "corrupt": "b", "foils": [1], "answers": []})"),
       "'answers'"},
      {with(
           R"({"clean": "a", "corrupt": "b", "foils": [1], "answers": [true]})"),
       "token id"}};
  for (const auto& [text, what] : wrong) {
    const auto message = message_of(
        [&] { parse_task(model, text, {.name = "my.json"}); },
        ErrorKind::bad_data);
    EXPECT_NE(message.find("my.json"), std::string::npos) << message;
    EXPECT_NE(message.find(what), std::string::npos) << message;
  }
  message_of([&] { parse_task(model, "{"); }, ErrorKind::bad_data);
  message_of(
      [&] {
        parse_task(
            model, with(R"({"clean_ids": [49152], "corrupt_ids": [1])" + ends));
      },
      ErrorKind::out_of_range);
  message_of(
      [&] {
        parse_task(
            model,
            with(
                R"({"clean": "a", "corrupt": "b", "foils": [1], "answers": [" Mary John"]})"));
      },
      ErrorKind::unknown_name);
}

}  // namespace
}  // namespace mlxterp::spec
