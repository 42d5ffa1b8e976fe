#include "mlxterp/spec/metric.h"

#include <algorithm>
#include <optional>
#include <span>

#include "analysis/metric_name.h"
#include "spec/text.h"

namespace mlxterp::spec {

namespace {

using Maker = Metric (*)(Tokens);

struct Kind {
  std::string_view word;
  int tokens;
  Maker make;
};

constexpr Kind kinds[] = {
    {"logit_diff", 2, nullptr},
    {"logit", 1, logit},
    {"prob", 1, probability},
    {"log_prob", 1, log_probability},
    {"rank", 1, rank},
    {"kl", 0, [](Tokens) { return kl_divergence(); }},
    {"loss", 0, [](Tokens) { return loss(); }}};

struct Parts {
  const Kind* kind;
  std::vector<std::string> tokens;
};

Parts parts_of(std::string_view text, std::string_view name) {
  const auto open = text.find('(');
  const auto* kind =
      std::ranges::find(kinds, text.substr(0, open), &Kind::word);
  const bool known = kind != std::end(kinds);
  const bool called = open != text.npos && text.ends_with(')');
  if (!known || called != (kind->tokens > 0) || (!called && open != text.npos))
    fail(
        ErrorKind::usage,
        "{} '{}' is not one of logit_diff(A,B), logit(A), prob(A), "
        "log_prob(A), rank(A), kl, loss",
        name,
        printable(text));
  if (kind->tokens == 0) return {kind, {}};
  const auto inside = text.substr(open + 1, text.size() - open - 2);
  Parts out{kind, {}};
  if (kind->tokens == 1) {
    out.tokens.emplace_back(inside);
  } else {
    const auto comma = inside.find(',');
    if (comma == inside.npos)
      fail(
          ErrorKind::usage,
          "{} '{}' has one token; write logit_diff(A,B), the logit of A minus "
          "that of B",
          name,
          printable(text));
    out.tokens.emplace_back(inside.substr(0, comma));
    out.tokens.emplace_back(inside.substr(comma + 1));
  }
  for (const auto& token : out.tokens)
    if (token.empty())
      fail(
          ErrorKind::usage,
          "{} '{}' has an empty token; write a token that holds a comma by its "
          "id, as id:28",
          name,
          printable(text));
  return out;
}

// The N of `id:N`; spaces around it are no part of a token, as after a comma.
std::optional<int> by_number(std::string_view text) {
  const auto from = text.find_first_not_of(' ');
  if (from == text.npos || !text.substr(from).starts_with("id:")) return {};
  text = text.substr(from + 3, text.find_last_not_of(' ') - from - 2);
  return whole_number<int>(text);
}

// Where a leading space makes a difference: not to punctuation.
bool begins_a_word(std::string_view text) {
  if (text.empty()) return false;
  const auto c = static_cast<unsigned char>(text[0]);
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
         (c >= '0' && c <= '9') || c >= 0x80;
}

std::optional<int> token_if_one(
    const Tokenizer& tokenizer, const std::string& text) {
  if (text.size() > limits::token_bytes) return std::nullopt;
  try {
    return tokenizer.single_token(text);
  } catch (const Error&) {
    return std::nullopt;
  }
}

// What words follow differently.
enum class End { word, space, other };

// Of all prompts; where they differ or there are none, as of a word.
End common_end(
    const Tokenizer& tokenizer, const std::vector<std::vector<int>>& prompts) {
  std::optional<End> common;
  const auto control =
      prompts.empty() ? std::vector<int>() : tokenizer.control_tokens();
  for (const auto& ids : prompts) {
    if (ids.empty()) return End::word;
    const auto text =
        tokenizer.decode(std::span(&ids.back(), 1), /*with_special=*/true);
    const auto own = text.ends_with(' ')                            ? End::space
                     : text.ends_with('\n') || text.ends_with('\t') ? End::other
                     : std::ranges::count(control, ids.back()) > 0  ? End::other
                                                                    : End::word;
    if (common && *common != own) return End::word;
    common = own;
  }
  return common.value_or(End::word);
}

}  // namespace

int parse_token(
    const InterpretableModel& model,
    const std::string& text,
    const MetricOptions& options) {
  if (text.empty() || text.size() > limits::token_bytes)
    fail(
        ErrorKind::usage,
        "{} '{}' of {} bytes is not a token; give its text, or id:N",
        options.name,
        printable(text),
        text.size());
  const auto number = by_number(text);
  const int id = number ? *number : model.tokenizer().single_token(text);
  const int checked = Token(id).id(model);
  if (options.warn)
    for (const auto& sentence : answer_warnings(model, {text}, options.prompts))
      options.warn(sentence);
  return checked;
}

Metric parse_metric(
    const InterpretableModel& model,
    const std::vector<std::string>& texts,
    const MetricOptions& options) {
  check_size(texts, options.name);
  if (texts.empty())
    fail(ErrorKind::usage, "{}: none given; {}", options.name, metric_grammar);
  const MetricOptions silent{.name = options.name};
  std::vector<Token> tokens, foils;
  std::vector<std::string> sentences;
  const Kind* kind = nullptr;
  for (const auto& text : texts) {
    const auto parts = parts_of(text, options.name);
    if (kind && parts.kind != kind)
      fail(
          ErrorKind::usage,
          "{} '{}' and another of kind {}: use the same kind for all prompts",
          options.name,
          printable(text),
          kind->word);
    kind = parts.kind;
    for (size_t i = 0; i < parts.tokens.size(); ++i)
      (i ? foils : tokens)
          .emplace_back(parse_token(model, parts.tokens[i], silent));
    for (auto& sentence : answer_warnings(model, parts.tokens, options.prompts))
      if (std::ranges::count(sentences, sentence) == 0)
        sentences.push_back(std::move(sentence));
  }
  if (options.warn)
    for (const auto& sentence : sentences)
      options.warn(sentence);
  const Tokens none = 0;
  auto metric = kind->tokens == 2   ? logit_diff(tokens, foils)
                : kind->tokens == 1 ? kind->make(tokens)
                                    : kind->make(none);
  metric.name = name_of(texts);
  return metric;
}

std::vector<std::string> answer_warnings(
    const InterpretableModel& model,
    const std::vector<std::string>& answers,
    const std::vector<std::vector<int>>& prompts) {
  if (!model.has_tokenizer()) return {};
  const auto& tokenizer = model.tokenizer();
  const auto end = common_end(tokenizer, prompts);
  std::vector<std::string> sentences;
  const std::string *bare = nullptr, *spaced = nullptr;
  for (const auto& answer : answers) {
    if (by_number(answer)) continue;
    if (answer.size() > 1 && answer[0] == ' ') {
      spaced = &answer;
      if (end == End::space && token_if_one(tokenizer, answer.substr(1)))
        sentences.push_back(fmt::format(
            "the prompt ends in a space, and so does not go on with '{}'; end "
            "it before the space, or leave out that of the answer",
            printable(answer)));
    }
    if (!begins_a_word(answer)) continue;
    bare = &answer;
    if (end != End::word) continue;
    const auto own = token_if_one(tokenizer, answer);
    const auto other = token_if_one(tokenizer, " " + answer);
    if (own && other && *own != *other)
      sentences.push_back(fmt::format(
          "'{0}' (id {1}) is not the token ' {0}' (id {2}), which is what "
          "follows a word; if that is meant, write the space",
          printable(answer),
          *own,
          *other));
  }
  if (sentences.empty() && bare && spaced)
    sentences.push_back(fmt::format(
        "'{}' has no leading space and '{}' has one; is that intended?",
        printable(*bare),
        printable(*spaced)));
  return sentences;
}

}  // namespace mlxterp::spec
