#include "mlxterp/spec/metric.h"

#include <gtest/gtest.h>

#include "mlxterp/core/limits.h"
#include "tests/spec/model.h"

namespace mlxterp::spec {
namespace {

using test::demo_without_weights;
using test::message_of;
using Kind = Metric::Kind;
using Sentences = std::vector<std::string>;

int id_of(const InterpretableModel& model, const std::string& text) {
  return model.tokenizer().single_token(text);
}

TEST(ParseMetric, ReadsEachKind) {
  const auto model = demo_without_weights();
  const auto token = [&](const Metric& metric) {
    return metric.token.of(0, 1).id(model);
  };
  const auto diff = parse_metric(model, {"logit_diff( Mary, John)"});
  EXPECT_EQ(diff.kind, Kind::logit_diff);
  EXPECT_EQ(token(diff), id_of(model, " Mary"));
  EXPECT_EQ(diff.foil.of(0, 1).id(model), id_of(model, " John"));
  EXPECT_EQ(diff.name, "logit_diff( Mary, John)");
  const std::pair<const char*, Kind> kinds[] = {
      {"logit", Kind::logit},
      {"prob", Kind::probability},
      {"log_prob", Kind::log_probability},
      {"rank", Kind::rank}};
  for (const auto& [word, kind] : kinds) {
    const auto metric = parse_metric(model, {std::string(word) + "( Paris)"});
    EXPECT_EQ(metric.kind, kind) << word;
    EXPECT_EQ(token(metric), id_of(model, " Paris")) << word;
  }
  EXPECT_EQ(parse_metric(model, {"kl"}).kind, Kind::kl_divergence);
  EXPECT_EQ(parse_metric(model, {"loss"}).kind, Kind::loss);
  EXPECT_EQ(token(parse_metric(model, {"logit(id:28)"})), 28);
  EXPECT_EQ(token(parse_metric(model, {"logit( id:28 )"})), 28);
  // Brackets and a second comma are tokens as good as others.
  EXPECT_EQ(token(parse_metric(model, {"logit())"})), id_of(model, ")"));
  EXPECT_EQ(
      parse_metric(model, {"logit_diff(.,,)"}).foil.of(0, 1).id(model),
      id_of(model, ","));
}

TEST(ParseMetric, OneForEachPrompt) {
  const auto model = demo_without_weights();
  const auto metric =
      parse_metric(model, {"prob( Paris)", "prob( Rome)", "prob( Paris)"});
  EXPECT_EQ(metric.token.size(), 3u);
  EXPECT_EQ(metric.token.of(1, 3).id(model), id_of(model, " Rome"));
  EXPECT_EQ(metric.name, "prob( Paris); prob( Rome); prob( Paris)");
  EXPECT_EQ(
      parse_metric(model, {"prob( Rome)", "prob( Rome)"}).name, "prob( Rome)");
  message_of([&] { parse_metric(model, {"prob( Paris)", "kl"}); });
}

TEST(ParseMetric, SaysWhatIsWrong) {
  const auto model = demo_without_weights();
  const std::pair<const char*, const char*> wrong[] = {
      {"entropy", "is not one of"},
      {"", "is not one of"},
      {"logit", "is not one of"},
      {"logit( Mary", "is not one of"},
      {"logit Mary)", "is not one of"},
      {"kl( Mary)", "is not one of"},
      {"kl(", "is not one of"},
      {"logit_diff( Mary)", "one token"},
      {"logit()", "empty token"},
      {"logit_diff(,,.)", "empty token"},
      {"logit_diff( Mary,)", "empty token"}};
  for (const auto& [text, what] : wrong) {
    const auto message =
        message_of([&] { parse_metric(model, {text}, {.name = "--metric"}); });
    EXPECT_EQ(message.find("--metric '"), 0u) << message;
    EXPECT_NE(message.find(what), std::string::npos) << message;
  }
  message_of([&] { parse_metric(model, {}); });
  message_of(
      [&] { parse_metric(model, {"logit( Mary John)"}); },
      ErrorKind::unknown_name);
  for (const auto* text : {"logit(id:-1)", "logit(id:49152)"})
    message_of([&] { parse_metric(model, {text}); }, ErrorKind::out_of_range);
}

TEST(ParseToken, ByTextAndByNumber) {
  const auto model = demo_without_weights();
  EXPECT_EQ(parse_token(model, " Paris"), id_of(model, " Paris"));
  EXPECT_EQ(parse_token(model, "id:7042"), 7042);
  const MetricOptions options{.name = "--track"};
  EXPECT_EQ(
      message_of([&] { parse_token(model, "", options); }).find("--track ''"),
      0u);
  message_of([&] {
    parse_token(model, std::string(limits::token_bytes + 1, 'a'), options);
  });
}

TEST(AnswerWarnings, NameBothTokensOfAWordWithoutItsSpace) {
  const auto model = demo_without_weights();
  const auto sentences = answer_warnings(model, {"Mary", " John"});
  ASSERT_EQ(sentences.size(), 1u);
  for (const auto& part :
       {std::string("'Mary'"),
        std::string("' Mary'"),
        std::to_string(id_of(model, "Mary")),
        std::to_string(id_of(model, " Mary"))})
    EXPECT_NE(sentences[0].find(part), std::string::npos) << sentences[0];
  EXPECT_EQ(answer_warnings(model, {"Mary", "John"}).size(), 2u);
  EXPECT_EQ(answer_warnings(model, {" Mary", " John"}), Sentences{});
  EXPECT_EQ(answer_warnings(model, {"id:28", " John"}), Sentences{});
  EXPECT_EQ(answer_warnings(model, {"."}), Sentences{});
  EXPECT_EQ(answer_warnings(model, {",", " and"}), Sentences{});
  EXPECT_EQ(answer_warnings(model, {}), Sentences{});
}

// "ing" follows a word without a space, and " ing" is no token of its own.
TEST(AnswerWarnings, NameAnswersThatDifferInTheirSpace) {
  const auto model = demo_without_weights();
  ASSERT_EQ(model.tokenizer().encode(" ness").size(), 2u);
  EXPECT_EQ(answer_warnings(model, {"ness"}), Sentences{});
  const auto sentences = answer_warnings(model, {"ness", " John"});
  ASSERT_EQ(sentences.size(), 1u);
  EXPECT_NE(sentences[0].find("'ness'"), std::string::npos);
  EXPECT_NE(sentences[0].find("' John'"), std::string::npos);
}

// Behind a space the bare word comes, and the spaced one does not.
TEST(AnswerWarnings, KnowWhatThePromptEndsWith) {
  const auto model = demo_without_weights();
  const auto said = [&](const std::vector<std::string>& answers,
                        const std::vector<std::string>& prompts) {
    std::vector<std::vector<int>> rows;
    for (const auto& prompt : prompts)
      rows.push_back(model.tokenizer().encode(prompt));
    return answer_warnings(model, answers, rows);
  };
  EXPECT_EQ(said({"Mary", "John"}, {"it went to"}).size(), 2u);
  for (const auto* end : {"it went to ", "Name:\n", "hi<|im_end|>"})
    EXPECT_EQ(said({"Mary", "John"}, {end}), Sentences{}) << end;
  const auto sentences = said({" Mary", " John"}, {"it went to "});
  ASSERT_EQ(sentences.size(), 2u);
  EXPECT_NE(sentences[0].find("ends in a space"), std::string::npos);
  EXPECT_NE(sentences[0].find("' Mary'"), std::string::npos);
  EXPECT_EQ(said({" Mary"}, {"it went to"}), Sentences{});
  EXPECT_EQ(said({" Mary"}, {"Name:\n"}), Sentences{});
  // Of prompts that end differently, as of a word.
  EXPECT_EQ(said({"Mary"}, {"it went to ", "it went to"}).size(), 1u);
  Sentences told;
  parse_metric(
      model,
      {"prob(Mary)"},
      {.warn = [&](std::string_view text) { told.emplace_back(text); },
       .prompts = {model.tokenizer().encode("to ")}});
  EXPECT_EQ(told, Sentences{});
}

TEST(ParseMetric, WarnsOfAnswersOnce) {
  const auto model = demo_without_weights();
  Sentences told;
  const MetricOptions options{
      .warn = [&](std::string_view sentence) { told.emplace_back(sentence); }};
  parse_metric(
      model, {"logit_diff(Mary, John)", "logit_diff(Mary, John)"}, options);
  EXPECT_EQ(told, answer_warnings(model, {"Mary", " John"}));
  told.clear();
  parse_token(model, "Paris", options);
  EXPECT_EQ(told.size(), 1u);
  told.clear();
  parse_metric(model, {"logit_diff( Mary, John)"}, options);
  parse_token(model, " Paris", options);
  EXPECT_EQ(told, Sentences{});
}

}  // namespace
}  // namespace mlxterp::spec
