// Chat templates against transformers' renderer, and where the turns are.

#include "mlxterp/text/chat.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "mlxterp/core/error.h"
#include "mlxterp/core/paths.h"
#include "mlxterp/io/gguf.h"
#include "mlxterp/text/tokenizer.h"
#include "tests/bad_input.h"
#include "tests/temp_folder.h"
#include "text/chat_templates.h"

namespace mlxterp {
namespace {

using json = nlohmann::ordered_json;
using Ids = std::vector<int>;

const std::filesystem::path fixtures =
    std::filesystem::path(MLXTERP_SOURCE_DIR) / "tests/text/fixtures";

std::string read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(file) << path;
  return text.str();
}

const json& chats() {
  static const json file = json::parse(read(fixtures / "chats.json"));
  return file;
}

std::tm now() {
  std::tm time{};
  time.tm_year = 2025 - 1900;
  time.tm_mon = 0;
  time.tm_mday = 9;
  time.tm_hour = 14;
  time.tm_min = 5;
  time.tm_sec = 6;
  return time;
}

// A small vocabulary with a template's control tokens.
Tokenizer tokenizer_of(
    const std::string& name, const std::vector<std::string>& controls) {
  json file = json::parse(read(fixtures / (name + ".tokenizer.json")));
  std::set<std::string> known;
  int next = 0;
  for (const auto& [token, id] : file["model"]["vocab"].items()) {
    known.insert(token);
    next = std::max(next, id.get<int>() + 1);
  }
  for (const auto& token : file["added_tokens"]) {
    known.insert(token["content"]);
    next = std::max(next, token["id"].get<int>() + 1);
  }
  for (const auto& control : controls)
    if (!known.contains(control))
      file["added_tokens"].push_back(
          {{"id", next++},
           {"content", control},
           {"single_word", false},
           {"lstrip", false},
           {"rstrip", false},
           {"normalized", false},
           {"special", true}});
  return Tokenizer::from_json(file.dump());
}

Tokenizer tokenizer_of(const json& shape) {
  return tokenizer_of(shape["tokenizer"], shape["controls"]);
}

ChatOptions options_of(const json& shape) {
  ChatOptions options;
  options.chat_template = shape["source"];
  options.variables = shape["variables"].dump();
  options.now = now();
  return options;
}

const json& shape(std::string_view name) {
  for (const auto& each : chats()["templates"])
    if (each["name"] == name) return each;
  throw std::runtime_error("no such template: " + std::string(name));
}

// FNV-1a, as in make_chats.py.
std::string hashed(const Ids& ids) {
  uint64_t value = 0xCBF29CE484222325;
  for (const int id : ids)
    for (int byte = 0; byte < 8; byte++) {
      value ^= (static_cast<uint64_t>(id) >> (8 * byte)) & 0xFF;
      value *= 0x100000001B3;
    }
  char text[17];
  std::snprintf(
      text, sizeof text, "%016llx", static_cast<unsigned long long>(value));
  return text;
}

std::string error_of(const std::function<void()>& call, ErrorKind kind) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

std::string decoded(
    const Tokenizer& tokenizer, const ChatPrompt& prompt, TokenSpan span) {
  return tokenizer.decode(
      std::span(prompt.ids)
          .subspan(
              static_cast<size_t>(span.begin),
              static_cast<size_t>(span.size())),
      true);
}

std::string trimmed(std::string text) {
  text.erase(text.find_last_not_of(" \n\t\r") + 1);
  text.erase(0, text.find_first_not_of(" \n\t\r"));
  return text;
}

TEST(Chat, TextsAndIdsAreThoseOfTransformers) {
  int texts = 0;
  int refusals = 0;
  for (const auto& each : chats()["templates"]) {
    const auto tokenizer = tokenizer_of(each);
    for (const auto& oracle : each["cases"]) {
      const std::string name = oracle["conversation"];
      SCOPED_TRACE(each["name"].get<std::string>() + ", " + name);
      auto options = options_of(each);
      options.add_generation_prompt = oracle["prompt"];
      if (oracle["tools"]) options.tools = chats()["tools"].dump();
      const std::string messages = chats()["conversations"][name].dump();
      const auto prompt = [&] {
        return tokenizer.apply_chat_template(messages, options);
      };
      if (oracle.contains("error")) {
        const auto message = error_of(prompt, ErrorKind::usage);
        EXPECT_NE(
            message.find(oracle["error"].get<std::string>()), message.npos)
            << message;
        refusals++;
        continue;
      }
      const auto made = prompt();
      EXPECT_EQ(made.text, oracle["text"].get<std::string>());
      EXPECT_EQ(made.text, tokenizer.render_chat(messages, options));
      EXPECT_EQ(made.ids.size(), oracle["count"].get<size_t>());
      EXPECT_EQ(hashed(made.ids), oracle["hash"].get<std::string>());
      texts++;
    }
  }
  EXPECT_GE(texts, 110);
  EXPECT_GE(refusals, 8);
}

TEST(Chat, ExpressionsAreJinjas) {
  const auto tokenizer = tokenizer_of("llama3", {});
  int values = 0;
  for (const auto& [source, value] :
       chats()["expressions"].get<std::vector<std::pair<json, json>>>()) {
    SCOPED_TRACE(source.dump());
    ChatOptions options;
    // Without a tag or a line it would be a name.
    options.chat_template = source;
    options.tools = chats()["tools"].dump();
    options.now = now();
    const std::string messages = chats()["conversations"]["tools"].dump();
    if (value.is_null()) {
      EXPECT_THROW(tokenizer.render_chat(messages, options), Error);
      continue;
    }
    EXPECT_EQ(
        tokenizer.render_chat(messages, options), value.get<std::string>());
    values++;
  }
  EXPECT_GE(values, 60);
}

// Which tokens a template marks as the assistant's (make_chat_masks.py).
TEST(Chat, MasksAreThoseOfTransformers) {
  const auto all = json::parse(read(fixtures / "chat_masks.json"));
  const auto tokenizer = tokenizer_of("llama3", all["controls"]);
  int cases = 0, runs = 0;
  for (const auto& oracle : all["cases"]) {
    const std::string name = oracle["template"],
                      conversation = oracle["conversation"];
    SCOPED_TRACE(name + ", " + conversation);
    ChatOptions options;
    options.chat_template = all["templates"][name];
    options.add_generation_prompt = oracle["prompt"];
    const auto messages = chats()["conversations"][conversation].dump();
    const auto plain = tokenizer.apply_chat_template(messages, options);
    EXPECT_EQ(plain.text, oracle["text"].get<std::string>());
    EXPECT_TRUE(plain.assistant_mask.empty());
    options.assistant_mask = true;
    const auto made = tokenizer.apply_chat_template(messages, options);
    EXPECT_EQ(made.text, plain.text);
    EXPECT_EQ(made.ids, plain.ids);
    ASSERT_EQ(made.ids.size(), oracle["count"].get<size_t>());
    std::vector<int> wanted(made.ids.size(), 0);
    for (const auto& run : oracle["ones"]) {
      std::fill(
          wanted.begin() + run[0].get<int>(),
          wanted.begin() + run[1].get<int>(),
          1);
      ++runs;
    }
    EXPECT_EQ(made.assistant_mask, wanted);
    ++cases;
  }
  EXPECT_EQ(cases, 60);
  EXPECT_GE(runs, 60);
}

TEST(Chat, AMaskOfWhatIsGoneOnWithAndOfATemplateThatMarksNothing) {
  const auto all = json::parse(read(fixtures / "chat_masks.json"));
  const auto tokenizer = tokenizer_of("llama3", all["controls"]);
  ChatOptions options;
  options.assistant_mask = true;
  options.chat_template = all["templates"]["content"];
  options.continue_final_message = true;
  const auto made = tokenizer.apply_chat_template(
      {{"user", "Hello", ""}, {"assistant", "Hi the", ""}}, options);
  ASSERT_TRUE(made.text.ends_with("Hi the"));
  const auto& content = *made.turns[1].content;
  ASSERT_EQ(content.end, static_cast<int>(made.ids.size()));
  for (int i = 0; i < static_cast<int>(made.ids.size()); ++i)
    EXPECT_EQ(made.assistant_mask[static_cast<size_t>(i)], i >= content.begin);

  const auto& chatml = shape("chatml");
  auto plain = options_of(chatml);
  plain.assistant_mask = true;
  const auto message = error_of(
      [&] {
        tokenizer_of(chatml).apply_chat_template({{"user", "x", ""}}, plain);
      },
      ErrorKind::usage);
  EXPECT_NE(message.find("{% generation %}"), message.npos) << message;
  EXPECT_NE(message.find("chat_template"), message.npos) << message;
  // One that is never reached marks nothing, and is no error.
  options.continue_final_message = false;
  const auto none =
      tokenizer.apply_chat_template({{"user", "Hello", ""}}, options);
  EXPECT_EQ(none.assistant_mask, std::vector<int>(none.ids.size(), 0));
}

// Where the contents are, in every template and conversation.
TEST(Chat, SpansHoldTheirContents) {
  int whole = 0;
  int part = 0;
  for (const auto& each : chats()["templates"]) {
    const auto tokenizer = tokenizer_of(each);
    for (const auto& oracle : each["cases"]) {
      if (oracle.contains("error")) continue;
      const std::string name = oracle["conversation"];
      SCOPED_TRACE(each["name"].get<std::string>() + ", " + name);
      auto options = options_of(each);
      options.add_generation_prompt = oracle["prompt"];
      if (oracle["tools"]) options.tools = chats()["tools"].dump();
      const json& messages = chats()["conversations"][name];
      const auto prompt =
          tokenizer.apply_chat_template(messages.dump(), options);
      ASSERT_EQ(prompt.turns.size(), messages.size());
      int end = prompt.turns[0].message.begin;
      for (const auto& turn : prompt.turns) {
        SCOPED_TRACE(turn.index);
        const auto& message = messages[static_cast<size_t>(turn.index)];
        EXPECT_EQ(turn.role, message["role"].get<std::string>());
        EXPECT_EQ(turn.message.begin, end);
        end = turn.message.end;
        const std::string content = message["content"];
        if (trimmed(content).empty()) {
          EXPECT_EQ(turn.found, ContentFound::none);
          EXPECT_FALSE(turn.content);
          continue;
        }
        if (turn.found == ContentFound::part) part++;
        if (turn.found != ContentFound::whole) continue;
        whole++;
        ASSERT_TRUE(turn.content);
        EXPECT_NE(
            decoded(tokenizer, prompt, *turn.content).find(trimmed(content)),
            std::string::npos)
            << decoded(tokenizer, prompt, *turn.content);
      }
      if (options.add_generation_prompt) {
        EXPECT_EQ(prompt.generation_prompt.begin, end);
        end = prompt.generation_prompt.end;
      }
      EXPECT_EQ(end, static_cast<int>(prompt.ids.size()));
    }
  }
  EXPECT_GE(whole, 250);
  EXPECT_GE(part, 4);
}

TEST(Chat, TurnsOfChatml) {
  const auto& chatml = shape("chatml");
  const auto tokenizer = tokenizer_of(chatml);
  auto options = options_of(chatml);
  options.add_generation_prompt = true;
  const std::vector<ChatMessage> messages = {
      {"system", "Be brief.", ""},
      {"user", " Hello ", ""},
      {"assistant", "Hi", ""},
      {"user", "Hello", ""}};
  const auto prompt = tokenizer.apply_chat_template(messages, options);
  const auto text = [&](TokenSpan span) {
    return decoded(tokenizer, prompt, span);
  };
  EXPECT_EQ(
      text(prompt.turns[0].message),
      "<|im_start|>system\nBe brief.<|im_end|>\n");
  EXPECT_EQ(
      text(prompt.turns[1].message), "<|im_start|>user\n Hello <|im_end|>\n");
  EXPECT_EQ(
      text(prompt.turns[2].message), "<|im_start|>assistant\nHi<|im_end|>\n");
  EXPECT_EQ(
      text(prompt.turns[3].message), "<|im_start|>user\nHello<|im_end|>\n");
  EXPECT_EQ(text(prompt.generation_prompt), "<|im_start|>assistant\n");
  EXPECT_EQ(text(*prompt.turns[2].content), "Hi");
  EXPECT_EQ(text(*prompt.turns[3].content), "Hello");
  EXPECT_FALSE(prompt.turns[3].content->shares_last);
  EXPECT_EQ(&prompt.turn("user", -1), &prompt.turns[3]);
  EXPECT_EQ(&prompt.turn("user", 0), &prompt.turns[1]);
  const auto message =
      error_of([&] { prompt.turn("assistant", 1); }, ErrorKind::unknown_name);
  EXPECT_NE(message.find("there are 1"), message.npos) << message;
}

// What the template writes of its own belongs to no message.
TEST(Chat, ScaffoldBelongsToNoTurn) {
  const auto& given = shape("chatml-default");
  const auto tokenizer = tokenizer_of(given);
  const auto prompt =
      tokenizer.apply_chat_template({{"user", "Hello", ""}}, options_of(given));
  EXPECT_EQ(
      decoded(tokenizer, prompt, prompt.turns[0].message),
      "<|im_start|>user\nHello<|im_end|>\n");
  EXPECT_EQ(
      decoded(
          tokenizer, prompt, {0, prompt.turns[0].message.begin, false, false}),
      "<|im_start|>system\nYou help.<|im_end|>\n");

  const auto& headers = shape("headers");
  const auto other = tokenizer_of(headers);
  const auto second =
      other.apply_chat_template({{"user", "Hello", ""}}, options_of(headers));
  EXPECT_EQ(second.turns[0].message.begin, 1);  // behind the BOS token
}

TEST(Chat, ATemplateThatTrimsCutsOrFolds) {
  const auto& thinking = shape("calls-thinking");
  const auto tokenizer = tokenizer_of(thinking);
  const std::string messages = chats()["conversations"]["thinking"].dump();
  const auto prompt =
      tokenizer.apply_chat_template(messages, options_of(thinking));
  // The reasoning of an earlier turn is dropped, that of the last one written
  // anew where it was.
  EXPECT_EQ(prompt.turns[1].found, ContentFound::part);
  EXPECT_EQ(decoded(tokenizer, prompt, *prompt.turns[1].content), "Yes, 7 is.");
  EXPECT_EQ(prompt.turns[3].found, ContentFound::whole);
  EXPECT_EQ(
      decoded(tokenizer, prompt, *prompt.turns[3].content),
      "<think>\n3 * 3\n</think>\n\nNo.");

  const auto& folded = shape("turns-prefix");
  const auto other = tokenizer_of(folded);
  const auto second = other.apply_chat_template(
      chats()["conversations"]["plain"].dump(), options_of(folded));
  EXPECT_EQ(decoded(other, second, *second.turns[0].content), "You are brief.");
  EXPECT_EQ(decoded(other, second, *second.turns[1].content), "Hello!");

  // It looks at what the content begins with.
  ChatOptions options;
  options.chat_template =
      "{% for m in messages %}{% if m.content.startswith('<r>') and "
      "m.content.endswith('</r>') %}[{{ m.content }}]{% else %}({{ m.content "
      "}})"
      "{% endif %}{% endfor %}";
  const auto third = tokenizer.apply_chat_template(
      {{"user", "<r>one two</r>", ""}, {"user", "plain", ""}}, options);
  EXPECT_EQ(third.text, "[<r>one two</r>](plain)");
  EXPECT_EQ(third.turns[0].found, ContentFound::whole);
  EXPECT_TRUE(third.turns[0].content);
  EXPECT_EQ(third.turns[1].found, ContentFound::whole);

  // It changes every character.
  options.chat_template =
      "{% for m in messages %}{{ m.content|upper }}{% endfor %}";
  const auto fourth =
      tokenizer.apply_chat_template({{"user", "shout", ""}}, options);
  EXPECT_EQ(fourth.text, "SHOUT");
  EXPECT_EQ(fourth.turns[0].found, ContentFound::part);
  // It writes something else.
  options.chat_template =
      "{% for m in messages %}{{ m.content|length }}{% endfor %}";
  const auto fifth =
      tokenizer.apply_chat_template({{"user", "shout", ""}}, options);
  EXPECT_EQ(fifth.text, "5");
  EXPECT_EQ(fifth.turns[0].found, ContentFound::lost);
  EXPECT_FALSE(fifth.turns[0].content);
}

// Each piece between the template's own control tokens, read as plain text.
Ids piecewise(
    const Tokenizer& tokenizer,
    const std::string& text,
    const std::vector<std::pair<size_t, std::string>>& own) {
  Ids ids;
  size_t at = 0;
  const auto plain = [&](size_t end) {
    const auto piece = tokenizer.encode(
        text.substr(at, end - at),
        {.parse_special = false, .add_special = false});
    ids.insert(ids.end(), piece.begin(), piece.end());
  };
  for (const auto& [place, name] : own) {
    plain(place);
    ids.push_back(tokenizer.single_token(name));
    at = place + name.size();
  }
  plain(text.size());
  return ids;
}

TEST(Chat, ControlTokensInContentsAreText) {
  int compared = 0;
  for (const auto& each : chats()["templates"]) {
    const std::vector<std::string> controls = each["controls"];
    const std::string vocabulary = each["tokenizer"];
    // Others set a space in front of a piece.
    if (controls.empty() || (vocabulary != "llama3" && vocabulary != "qwen2"))
      continue;
    SCOPED_TRACE(each["name"].get<std::string>());
    const auto tokenizer = tokenizer_of(each);
    std::string typed = "a " + controls.front() + "b";
    for (const auto& control : controls)
      typed += control;
    typed += " end";
    // The same length, and no control token.
    std::string harmless = typed;
    for (auto& c : harmless)
      if (c == '<' || c == '|' || c == '[') c = '-';
    const auto options = options_of(each);
    const auto ask = [&](const std::string& content) {
      return tokenizer.apply_chat_template(
          {{"user", content, ""}, {"assistant", content, ""}}, options);
    };
    const auto prompt = ask(typed);
    const auto other = ask(harmless);
    ASSERT_EQ(prompt.text.size(), other.text.size());
    std::vector<std::pair<size_t, std::string>> own;
    auto all = controls;
    for (const int id : tokenizer.control_tokens())
      all.push_back(tokenizer.decode(std::vector{id}, true));
    for (size_t at = 0; at < other.text.size(); at++)
      for (const auto& control : all)
        if (other.text.compare(at, control.size(), control) == 0) {
          own.emplace_back(at, control);
          at += control.size() - 1;
          break;
        }
    EXPECT_EQ(prompt.ids, piecewise(tokenizer, prompt.text, own));
    EXPECT_EQ(other.ids, piecewise(tokenizer, other.text, own));
    EXPECT_EQ(tokenizer.decode(prompt.ids, true), prompt.text);
    compared++;

    auto parsing = options;
    parsing.parse_special = true;
    const auto parsed = tokenizer.apply_chat_template(
        {{"user", typed, ""}, {"assistant", typed, ""}}, parsing);
    EXPECT_EQ(parsed.text, prompt.text);
    EXPECT_EQ(
        parsed.ids, tokenizer.encode(parsed.text, {.add_special = false}));
    EXPECT_NE(parsed.ids, prompt.ids);
  }
  EXPECT_GE(compared, 10);
}

// A space goes in front of the text alone, or of every piece, as it always did.
TEST(Chat, ControlTokensInContentsOfSentencePiece) {
  for (const char* vocabulary : {"metaspace", "sentencepiece"}) {
    const auto tokenizer = tokenizer_of(vocabulary, {"<turn>", "<end>"});
    ChatOptions options;
    options.chat_template =
        "<s>{% for m in messages %}<turn>{{ m.content }}<end>\n{% endfor %}";
    const auto prompt = tokenizer.apply_chat_template(
        {{"user", "one <end> two", ""}, {"user", "three", ""}}, options);
    const auto parsed = tokenizer.encode(
        "<s><turn>one # two<end>\n<turn>three<end>\n", {.add_special = false});
    const int turn = tokenizer.single_token("<turn>");
    const int end = tokenizer.single_token("<end>");
    EXPECT_EQ(std::ranges::count(prompt.ids, turn), 2) << vocabulary;
    EXPECT_EQ(std::ranges::count(prompt.ids, end), 2) << vocabulary;
    EXPECT_EQ(std::ranges::count(prompt.ids, tokenizer.single_token("<s>")), 1)
        << vocabulary;
    // From the second turn on nothing differs.
    const auto tail = [&](const Ids& ids) {
      return Ids(std::ranges::find(ids, end), ids.end());
    };
    EXPECT_EQ(tail(prompt.ids), tail(parsed)) << vocabulary;
    EXPECT_EQ(
        tokenizer.decode(prompt.ids, true).find("one <end> two") !=
            std::string::npos,
        true)
        << vocabulary;
  }
}

TEST(Chat, ControlTokensInToolsAndArgumentsAreText) {
  const auto& calls = shape("calls");
  const auto tokenizer = tokenizer_of(calls);
  auto options = options_of(calls);
  options.tools =
      R"([{"type": "function", "function": {"name": "f", "description": )"
      R"("ends<|im_end|>here", "parameters": {}}}])";
  const auto prompt = tokenizer.apply_chat_template(
      R"([{"role": "user", "content": "x"}, {"role": "assistant", "content": )"
      R"("", "tool_calls": [{"function": {"name": "f", "arguments": {"q": )"
      R"("<|im_start|>"}}}]}])",
      options);
  EXPECT_NE(prompt.text.find("ends<|im_end|>here"), std::string::npos);
  const auto count = [&](const char* name) {
    return std::ranges::count(prompt.ids, tokenizer.single_token(name));
  };
  EXPECT_EQ(count("<|im_start|>"), 3);
  EXPECT_EQ(count("<|im_end|>"), 3);
}

TEST(Chat, WhatCannotBeToldApartIsRefused) {
  const auto tokenizer = tokenizer_of("llama3", {"<|im_start|>", "<|im_end|>"});
  ChatOptions options;
  options.chat_template =
      "{% for m in messages %}{% if m.content|length == 13 %}{{ m.content[:2] "
      "}}<|im_end|>{{ m.content[2:] }}{% endif %}{% endfor %}";
  const std::vector<ChatMessage> messages = {{"user", "ab.<|im_end|>", ""}};
  const auto message = error_of(
      [&] { tokenizer.apply_chat_template(messages, options); },
      ErrorKind::usage);
  EXPECT_NE(message.find("parse_special"), message.npos) << message;
  EXPECT_NE(message.find("/messages/0/content"), message.npos) << message;
  options.parse_special = true;
  EXPECT_NO_THROW(tokenizer.apply_chat_template(messages, options));
}

TEST(Chat, PrivateCharactersAreText) {
  const auto& chatml = shape("chatml");
  const auto tokenizer = tokenizer_of(chatml);
  // Those that marks are made of, and those that stand for control tokens.
  for (const char* c : {"\xF4\x8F\xBC\x80", "\xF4\x80\x80\x80"}) {
    const auto prompt = tokenizer.apply_chat_template(
        {{"user", std::string("a ") + c + " b", ""}}, options_of(chatml));
    EXPECT_EQ(
        prompt.ids, tokenizer.encode(prompt.text, {.add_special = false}));
    EXPECT_NE(prompt.text.find(c), std::string::npos);
  }
}

TEST(Chat, ContinueTheFinalMessage) {
  const auto& chatml = shape("chatml");
  const auto tokenizer = tokenizer_of(chatml);
  auto options = options_of(chatml);
  options.continue_final_message = true;
  const auto prompt = tokenizer.apply_chat_template(
      {{"user", "Count.", ""}, {"assistant", "One, ", ""}}, options);
  EXPECT_EQ(
      prompt.text,
      "<|im_start|>user\nCount.<|im_end|>\n<|im_start|>assistant\nOne, ");
  EXPECT_EQ(prompt.turns[1].message.end, static_cast<int>(prompt.ids.size()));
  EXPECT_EQ(prompt.turns[1].found, ContentFound::whole);
  // A template that trims takes the blank.
  const auto& headers = shape("headers");
  auto others = options_of(headers);
  others.continue_final_message = true;
  EXPECT_TRUE(
      tokenizer_of(headers)
          .apply_chat_template(
              {{"user", "Count.", ""}, {"assistant", "One, ", ""}}, others)
          .text.ends_with("\n\nOne,"));
  options.add_generation_prompt = true;
  error_of(
      [&] {
        tokenizer.apply_chat_template({{"user", "x", ""}}, options);
      },
      ErrorKind::usage);
}

TEST(Chat, NoSecondBos) {
  // Its post-processor sets <s> in front of every text.
  const auto tokenizer = tokenizer_of("metaspace", {});
  ASSERT_EQ(tokenizer.encode("x").front(), 1);
  const auto& given = shape("inst-v1");
  const auto prompt =
      tokenizer.apply_chat_template({{"user", "Hello", ""}}, options_of(given));
  EXPECT_EQ(std::ranges::count(prompt.ids, 1), 1);
  EXPECT_EQ(prompt.ids.front(), 1);
}

TEST(Chat, ReasoningByAnyName) {
  const auto tokenizer = tokenizer_of("llama3", {});
  ChatOptions options;
  options.chat_template =
      "{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}|"
      "{{ messages[0] | tojson }}";
  EXPECT_EQ(
      tokenizer.render_chat(
          R"([{"role": "assistant", "reasoning": "why", "content": "so"}])",
          options),
      R"(why|why|{"thinking": "why", "role": "assistant", "reasoning": "why", )"
      R"("content": "so", "reasoning_content": "why"})");
}

TEST(Chat, TheDemoModelsOwnTemplate) {
  if (!std::filesystem::exists(demo_model_path()))
    throw std::runtime_error("no demo model; run `make demo`");
  const auto tokenizer = Tokenizer::from_gguf(Gguf::open(demo_model_path()));
  ASSERT_TRUE(tokenizer.chat_templates().contains("default"));
  ChatOptions options;
  options.add_generation_prompt = true;
  const auto prompt = tokenizer.apply_chat_template(
      {{"system", "Be brief.", ""}, {"user", "Hello", ""}}, options);
  EXPECT_EQ(
      prompt.text,
      "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello"
      "<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(prompt.ids.front(), 1);
  EXPECT_EQ(prompt.turn("user", -1).found, ContentFound::whole);
}

TEST(Chat, TemplatesOfFolders) {
  const testing::TempFolder folder;
  const auto write = [&](const std::string& name, const std::string& text) {
    std::filesystem::create_directories((folder.path() / name).parent_path());
    std::ofstream(folder.path() / name) << text;
  };
  const auto of = [&](const char* config) {
    return read_chat_templates(folder.path(), nlohmann::json::parse(config));
  };
  using Templates = std::map<std::string, std::string>;
  EXPECT_EQ(of("{}"), Templates());
  EXPECT_EQ(of(R"({"chat_template": null})"), Templates());
  EXPECT_EQ(of(R"({"chat_template": "x"})"), (Templates{{"default", "x"}}));
  EXPECT_EQ(
      of(R"({"chat_template": [{"name": "default", "template": "x"},
             {"name": "tool_use", "template": "y"}]})"),
      (Templates{{"default", "x"}, {"tool_use", "y"}}));
  for (const char* bad :
       {R"({"chat_template": 7})",
        R"({"chat_template": [7]})",
        R"({"chat_template": [{"name": "a"}]})"})
    error_of([&] { of(bad); }, ErrorKind::bad_data);
  write("chat_template.jinja", "of a file");
  write("additional_chat_templates/tool_use.jinja", "with tools");
  write("additional_chat_templates/notes.txt", "no template");
  EXPECT_EQ(
      of(R"({"chat_template": "x"})"),
      (Templates{{"default", "of a file"}, {"tool_use", "with tools"}}));

  std::map<std::string, GgufValue> metadata;
  metadata["tokenizer.chat_template"] = std::string("a");
  metadata["tokenizer.chat_template.rag"] = std::string("b");
  metadata["tokenizer.chat_templates"] = std::vector<std::string>{"rag"};
  EXPECT_EQ(
      gguf_chat_templates(metadata),
      (Templates{{"default", "a"}, {"rag", "b"}}));
}

TEST(Chat, WhatIsWrongIsSaid) {
  const auto tokenizer = tokenizer_of("llama3", {});
  ChatOptions options;
  const auto refused = [&](const std::string& messages, ErrorKind kind) {
    return error_of(
        [&] { tokenizer.apply_chat_template(messages, options); }, kind);
  };
  const std::string good = R"([{"role": "user", "content": "x"}])";
  EXPECT_NE(
      refused(good, ErrorKind::usage).find("no chat template"),
      std::string::npos);
  options.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}";
  for (const char* bad :
       {"",
        "{",
        "7",
        R"({"role": "user"})",
        R"(["text"])",
        R"([[]])",
        R"([{"role": "user", "role": "user"}])",
        R"([{"content": "x"}])",
        R"([{"role": 7, "content": "x"}])",
        "[\"\xFF\"]"})
    refused(bad, ErrorKind::usage);
  for (const auto member :
       {&ChatOptions::tools,
        &ChatOptions::documents,
        &ChatOptions::variables}) {
    options.*member = "\"text\"";
    refused(good, ErrorKind::usage);
    options.*member = "{";
    refused(good, ErrorKind::usage);
    (options.*member).clear();
  }
  options.chat_template =
      "{% if messages[0].role != 'user' %}{{ raise_exception('only ' ~ "
      "'users') "
      "}}{% endif %}";
  EXPECT_NE(
      refused(R"([{"role": "critic", "content": "x"}])", ErrorKind::usage)
          .find("refuses this conversation: only users"),
      std::string::npos);
  for (const char* source :
       {"{% if",
        "{{ }}",
        "{% unknown %}",
        "{% include 'x' %}",
        "{{ 1 + 'a' }}",
        "{{ x.y }}",
        "{% endfor %}"}) {
    options.chat_template = source;
    refused(good, ErrorKind::bad_data);
  }
}

std::string repeated(std::string_view text, int times) {
  std::string out;
  for (int i = 0; i < times; i++)
    out += text;
  return out;
}

TEST(BadChatTemplate, EndsSoonAndInLittleMemory) {
  const std::string loop = "{% for i in range(60) %}";
  const std::string deep =
      "{% set n = namespace(x=[]) %}{% for i in range(90000) %}{% set n.x = "
      "[n.x] %}{% endfor %}";
  const std::vector<std::string> sources = {
      // never ends, or calls itself
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
      "{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
      // doubles
      "{% set n = namespace(x='ab') %}" + loop +
          "{% set n.x = n.x ~ n.x %}{% endfor %}",
      "{% set n = namespace(x='ab') %}" + loop +
          "{% set n.x = n.x + n.x %}{% endfor %}",
      "{% set n = namespace(x=[1]) %}" + loop +
          "{% set n.x = n.x + n.x %}{% endfor %}",
      "{% set n = namespace(x='ab') %}" + loop +
          "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor "
          "%}",
      "{% set n = namespace(x='aaaa') %}" + loop +
          "{% set n.x = n.x.replace('a', 'aaaa') %}{% endfor %}",
      "{% set n = namespace(x='aaaa') %}" + loop +
          "{% set n.x = n.x|join(n.x) %}{% endfor %}",
      // asks for much at once
      "{{ 'x' * 10000000000 }}",
      "{{ [1] * 10000000000 }}",
      "{{ 'x'.center(10000000000) }}",
      "{{ 'x\ny'|indent(10000000000) }}",
      "{{ [1]|tojson(indent=10000000000) }}",
      "{{ '%1000000000d' % 3 }}",
      "{{ '{:>1000000000}'.format(3) }}",
      "{{ [1]|batch(10000000000, 'x')|list }}",
      "{{ range(1000000000)|list }}",
      // writes much
      "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
      "{% for a in range(99999) %}" + std::string(5000, 'x') + "{% endfor %}",
      "{% set x %}{% for a in range(99999) %}" + std::string(5000, 'x') +
          "{% endfor %}{% endset %}",
      "{% for a in range(99999) %}{% set x = ('a b ' * 50000).split(' ') %}"
      "{% endfor %}",
      // nested
      deep + "{{ n.x }}",
      deep + "{{ n.x|tojson }}",
      "{{ " + std::string(99999, '(') + "1" + std::string(99999, ')') + " }}",
      "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
      repeated("{% if 1 %}", 3000) + repeated("{% endif %}", 3000),
  };
  for (const auto& source : sources)
    testing::expect_refused(
        [&] {
          ChatOptions options;
          options.chat_template = source;
          return tokenizer_of("llama3", {}).render_chat("[]", options);
        },
        ErrorKind::bad_data,
        {"chat template"});
}

}  // namespace
}  // namespace mlxterp
