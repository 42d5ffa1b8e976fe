// What a broken or hostile vocabulary or text gets: an Error, soon.

#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "mlxterp/core/error.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/core/paths.h"
#include "mlxterp/io/gguf.h"
#include "mlxterp/text/tokenizer.h"
#include "tests/bad_input.h"
#include "text/gguf_vocabulary.h"

namespace mlxterp {
namespace {

using nlohmann::json;
using testing::expect_accepted;
using testing::expect_refused;

const std::filesystem::path fixtures =
    std::filesystem::path(MLXTERP_SOURCE_DIR) / "tests/text/fixtures";

std::string read(const std::string& name) {
  std::ifstream file(fixtures / name, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(file) << name;
  return text.str();
}

json good() {
  return json::parse(read("llama3.tokenizer.json"));
}

// A good tokenizer.json with the value at `pointer` replaced.
std::string with(const char* pointer, const json& value) {
  json file = good();
  file[json::json_pointer(pointer)] = value;
  return file.dump();
}

json split(const char* regex) {
  return {
      {"type", "Split"},
      {"pattern", {{"Regex", regex}}},
      {"behavior", "Isolated"},
      {"invert", false}};
}

void expect_bad_json(
    const std::string& text, const std::vector<std::string>& says = {}) {
  expect_refused(
      [&] { return std::to_string(Tokenizer::from_json(text).vocab_size()); },
      ErrorKind::bad_data,
      says);
}

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
      .count();
}

TEST(BadTokenizerJson, NotJson) {
  for (const char* text :
       {"",
        "{",
        "[]",
        "null",
        "7",
        "\"a\"",
        "\xFF\xFE",
        "<!doctype html>",
        "{}",
        "{\"version\":\"1.0\"}",
        "{\"version\":\"9.9\"}"})
    expect_bad_json(text, {"Tokenizer::from_json"});
  expect_bad_json(std::string(1, '\0'));
  expect_bad_json(std::string(200'000, '['));
  std::string nested;
  for (int i = 0; i < 100'000; i++)
    nested += "{\"decoder\":";
  expect_bad_json(nested);
}

TEST(BadTokenizerJson, EveryTruncation) {
  const std::string text = read("llama3.tokenizer.json");
  for (size_t size = 0; size < text.size() - 3; size += 97)
    expect_bad_json(text.substr(0, size));
}

TEST(BadTokenizerJson, FlippedBytesNeverCrash) {
  const std::string text = read("llama3.tokenizer.json");
  const auto outcome = testing::run_apart([&] {
    for (size_t i = 0; i < text.size(); i += 31) {
      std::string broken = text;
      broken[i] = static_cast<char>(broken[i] ^ (1 << (i % 7)));
      try {
        const auto tokenizer = Tokenizer::from_json(broken);
        const auto ids = tokenizer.encode("Hello 123 <|im_start|>\n");
        tokenizer.decode(ids);
        tokenizer.labels(ids);
      } catch (const Error&) {
      }
    }
    return std::string("done");
  });
  EXPECT_EQ(outcome.text, "done");
}

TEST(BadTokenizerJson, WrongTypes) {
  expect_bad_json(with("/model", nullptr));
  expect_bad_json(with("/model", json::array()));
  expect_bad_json(with("/model/type", "Sorcery"));
  expect_bad_json(with("/model/vocab", json::array({1, 2})));
  expect_bad_json(with("/model/vocab/a", "1"));
  expect_bad_json(with("/model/vocab/a", -1));
  expect_bad_json(with("/model/vocab/a", 1.5));
  expect_bad_json(with("/model/vocab/a", 1ll << 40));
  expect_bad_json(with("/model/merges", 7));
  expect_bad_json(with("/model/merges", json::array({json::array({"a"})})));
  expect_bad_json(with("/added_tokens", "none"));
  expect_bad_json(with("/decoder", "ByteLevel"));
}

TEST(BadTokenizerJson, IdsAboveTheLimit) {
  expect_bad_json(
      with("/model/vocab/a", limits::vocab), {std::to_string(limits::vocab)});
  expect_bad_json(with("/model/vocab/a", 4'294'967'295u), {"4294967295"});
}

TEST(BadTokenizerJson, TwoTokensWithOneId) {
  const json id = good()["model"]["vocab"]["b"];
  expect_bad_json(with("/model/vocab/a", id), {"share the id"});
}

TEST(BadTokenizerJson, MergeThatIsNoToken) {
  const json pair = json::array({"a", "zz"});
  expect_bad_json(with("/model/merges", json::array({pair})), {"zz"});
}

TEST(BadTokenizerJson, MergeLongerThanAnyTokenPanicsInTheCrate) {
  const json model = {
      {"type", "BPE"},
      {"vocab", {{"aa", 0}, {"b", 1}}},
      {"merges", json::array({json::array({"aa", "b"})})}};
  const std::string text = with("/model", model);
  expect_bad_json(text, {"panic"});
  // Nothing about it on stderr, and the process goes on.
  ::testing::internal::CaptureStderr();
  EXPECT_THROW(Tokenizer::from_json(text), Error);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(Tokenizer::from_json(good().dump()).encode("a").size(), 2u);
}

TEST(BadTokenizerJson, BrokenRegex) {
  for (const char* regex : {"(", "[", "*", "(?<", "\\p{Nonsense}"})
    expect_bad_json(with("/pre_tokenizer", split(regex)));
}

// Exponential at one position, and quadratic over a long text.
TEST(BadTokenizerJson, RegexBombsEndSoon) {
  for (const char* regex :
       {"(a+)+$", "(a|aa)+$", "a*(?!a|c)", "((a{1,1000}){1,1000}){1,1000}$"}) {
    SCOPED_TRACE(regex);
    const std::string text = with("/pre_tokenizer", split(regex));
    std::string prompt(limits::prompt_bytes, 'a');
    prompt.back() = 'c';
    const double took = seconds([&] {
      expect_refused(
          [&] {
            return std::to_string(
                Tokenizer::from_json(text).encode(prompt).size());
          },
          ErrorKind::bad_data,
          {"Tokenizer::encode"});
    });
    EXPECT_LT(took, 30);
  }
}

// Steps that each make a text longer, by a factor that multiplies.
TEST(BadTokenizerJson, StepsThatMultiplyAreRefused) {
  const auto sequence = [](const char* list, const json& step, int times) {
    return json{
        {"type", "Sequence"},
        {list, std::vector<json>(static_cast<size_t>(times), step)}};
  };
  const json doubles = {
      {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}};
  const json grows = {
      {"type", "Replace"},
      {"pattern", {{"Regex", ""}}},
      {"content", std::string(1000, 'a')}};
  const json bytes = {
      {"type", "ByteLevel"},
      {"add_prefix_space", true},
      {"trim_offsets", false},
      {"use_regex", false}};
  size_t refused = 0;
  const auto expect_bound = [&](const char* part, const json& step) {
    expect_bad_json(with(part, step), {"its steps can make"});
    ++refused;
  };
  expect_bound("/normalizer", sequence("normalizers", doubles, 40));
  expect_bound("/normalizer", sequence("normalizers", grows, 9));
  expect_bound("/normalizer", sequence("normalizers", bytes, 30));
  expect_bound("/pre_tokenizer", sequence("pretokenizers", bytes, 30));
  expect_bound("/decoder", sequence("decoders", doubles, 40));
  expect_bound("/decoder", sequence("decoders", grows, 9));
  EXPECT_EQ(refused, 6u);
  expect_bad_json(
      with(
          "/normalizer",
          sequence("normalizers", {{"type", "NFC"}}, limits::tokenizer_steps)),
      {"more than 64 steps"});
  expect_bad_json(
      with(
          "/pre_tokenizer",
          split(std::string(limits::tokenizer_pattern_bytes + 1, 'a').c_str())),
      {"16385 bytes"});
  auto file = good();
  auto& single = file["post_processor"]["single"];
  while (single.size() <= limits::tokenizer_steps)
    single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  expect_bad_json(file.dump(), {"a template has 65 pieces"});

  // One that is fine for a word is not for a long text.
  const auto some = Tokenizer::from_json(
      with("/normalizer", sequence("normalizers", doubles, 10)));
  EXPECT_FALSE(some.encode("a").empty());
  expect_refused(
      [&] {
        return std::to_string(some.encode(std::string(100'000, 'a')).size());
      },
      ErrorKind::bad_data,
      {"its steps can make"});
}

// The size that a charsmap gives its trie is not believed.
TEST(BadTokenizerJson, ACharsmapThatLies) {
  for (const char* map : {"AAAAgAAAAAA=", "/////wAAAAA=", "", "AA", "?"})
    expect_bad_json(
        with(
            "/normalizer",
            {{"type", "Precompiled"}, {"precompiled_charsmap", map}}),
        {"precompiled_charsmap"});
}

// Slow at every position of a text: each search is short enough, all are not.
TEST(BadTokenizerJson, ManySlowSearchesEndSoon) {
  const std::string text = with("/pre_tokenizer", split("(a|aa)+c|a|."));
  const auto tokenizer = Tokenizer::from_json(text);
  const double took = seconds([&] {
    expect_refused(
        [&] {
          std::string prompt;
          for (int i = 0; i < 2000; i++)
            prompt += std::string(24, 'a') + " ";
          return std::to_string(tokenizer.encode(prompt).size());
        },
        ErrorKind::bad_data,
        {"Tokenizer::encode", "take too long"});
  });
  EXPECT_LT(took, 60);
  // Others are as fast as before.
  EXPECT_FALSE(Tokenizer::from_json(good().dump()).encode("a b c").empty());
}

TEST(BadTokenizerJson, TemplateWithAnIdThatIsNone) {
  json file = good();
  for (auto& token : file["post_processor"]["special_tokens"])
    token["ids"] = json::array({1'000'000'000});
  const std::string text = file.dump();
  expect_refused(
      [&] {
        return std::to_string(Tokenizer::from_json(text).encode("a").size());
      },
      ErrorKind::bad_data,
      {"1000000000"});
}

TEST(BadTokenizerJson, TooLong) {
  const std::string text(limits::tokenizer_bytes + 1, ' ');
  expect_refused(
      [&] { return std::to_string(Tokenizer::from_json(text).vocab_size()); },
      ErrorKind::bad_data,
      {std::to_string(text.size()), std::to_string(limits::tokenizer_bytes)});
}

TEST(BadPrompt, OverTheLimit) {
  const auto tokenizer = Tokenizer::from_json(good().dump());
  const std::string text(limits::prompt_bytes + 1, 'a');
  expect_refused(
      [&] { return std::to_string(tokenizer.encode(text).size()); },
      ErrorKind::usage,
      {std::to_string(text.size()), std::to_string(limits::prompt_bytes)});
}

TEST(BadPrompt, OneMebibyteEndsSoon) {
#ifdef __SANITIZE_ADDRESS__
  constexpr double limit = 60;  // seconds; its checks slow everything down
#else
  constexpr double limit = 20;
#endif
  ASSERT_TRUE(std::filesystem::exists(demo_model_path()))
      << "no demo model; run `make demo`";
  const std::vector<Tokenizer> tokenizers = {
      Tokenizer::from_gguf(Gguf::open(demo_model_path())),
      Tokenizer::from_gguf(Gguf::open(fixtures / "llama-bpe.gguf")),
      Tokenizer::from_gguf(Gguf::open(fixtures / "spm.gguf"))};
  for (const char* unit : {"a", " ", " \n", "\xC3\xA9", "ab "})
    for (const Tokenizer& tokenizer : tokenizers) {
      std::string text;
      while (text.size() + 2 < limits::prompt_bytes)
        text += unit;
      text += "!";
      std::string back;
      const double took =
          seconds([&] { back = tokenizer.decode(tokenizer.encode(text)); });
      EXPECT_EQ(back, text);
      EXPECT_LT(took, limit) << "'" << unit << "'";
    }
}

using Metadata = std::map<std::string, GgufValue>;

Metadata bpe() {
  return Gguf::open(fixtures / "bpe.gguf").metadata();
}
Metadata spm() {
  return Gguf::open(fixtures / "spm.gguf").metadata();
}

void expect_bad_gguf(
    const Metadata& metadata,
    const std::string& key,
    std::vector<std::string> says) {
  SCOPED_TRACE(key);
  says.push_back(key);
  expect_refused(
      [&] { return gguf_vocabulary(metadata).tokenizer_json.substr(0, 1); },
      ErrorKind::bad_data,
      says);
}

// The vocabulary with one key replaced.
template <typename T>
void expect_bad_gguf(
    Metadata metadata,
    const std::string& key,
    T value,
    const std::vector<std::string>& says) {
  metadata[key].emplace<T>(std::move(value));
  expect_bad_gguf(metadata, key, says);
}

void expect_missing(Metadata metadata, const std::string& key) {
  metadata.erase(key);
  expect_bad_gguf(metadata, key, {"missing"});
}

template <typename T>
T value(const Metadata& metadata, const std::string& key) {
  return std::get<T>(metadata.at(key));
}

TEST(BadGgufVocabulary, GoodOnes) {
  for (const Metadata& metadata : {bpe(), spm()})
    expect_accepted(
        [&] { return gguf_vocabulary(metadata).tokenizer_json.substr(0, 1); });
}

TEST(BadGgufVocabulary, MissingOrOfAnotherType) {
  const std::string prefix = "tokenizer.ggml.";
  for (const char* key : {"tokens", "merges", "model"})
    expect_missing(bpe(), prefix + key);
  expect_missing(spm(), prefix + "scores");
  for (const char* key :
       {"tokens",
        "merges",
        "model",
        "token_type",
        "bos_token_id",
        "add_bos_token",
        "pre"})
    expect_bad_gguf(bpe(), prefix + key, 0.5, {" is not "});
  for (const char* key : {"scores", "add_space_prefix"})
    expect_bad_gguf(
        spm(), prefix + key, std::vector<std::string>{"a"}, {" is not "});
}

TEST(BadGgufVocabulary, UnknownNames) {
  expect_bad_gguf(
      bpe(),
      "tokenizer.ggml.pre",
      std::string("my-\x1Bpre"),
      {"my-\\x1bpre", "smollm"});
  expect_bad_gguf(
      bpe(), "tokenizer.ggml.model", std::string("bert"), {"bert", "llama"});
}

TEST(BadGgufVocabulary, Counts) {
  auto types = value<std::vector<int64_t>>(bpe(), "tokenizer.ggml.token_type");
  types.pop_back();
  expect_bad_gguf(
      bpe(),
      "tokenizer.ggml.token_type",
      types,
      {std::to_string(types.size())});
  auto scores = value<std::vector<double>>(spm(), "tokenizer.ggml.scores");
  scores.push_back(0);
  expect_bad_gguf(
      spm(), "tokenizer.ggml.scores", scores, {std::to_string(scores.size())});
  expect_bad_gguf(
      bpe(), "tokenizer.ggml.tokens", std::vector<std::string>{}, {"0 tokens"});
  expect_bad_gguf(bpe(), "llama.vocab_size", int64_t{10}, {"10"});
}

TEST(BadGgufVocabulary, Tokens) {
  const std::string key = "tokenizer.ggml.tokens";
  const auto tokens = value<std::vector<std::string>>(bpe(), key);
  const auto at_3 = [&](const std::string& token) {
    auto changed = tokens;
    changed[3] = token;
    return changed;
  };
  expect_bad_gguf(bpe(), key, at_3(tokens[4]), {"[3] and [4]"});
  expect_bad_gguf(bpe(), key, at_3("\xC3"), {"[3]", "UTF-8", "\\xc3"});
  const std::string most(limits::token_bytes, 'x');
  expect_bad_gguf(bpe(), key, at_3(most + "x"), {"1025", "1024"});
  auto at_limit = bpe();
  at_limit["tokenizer.ggml.merges"] = std::vector<std::string>{};
  at_limit[key] = at_3(most);
  expect_accepted(
      [&] { return gguf_vocabulary(at_limit).tokenizer_json.substr(0, 1); });
}

TEST(BadGgufVocabulary, Merges) {
  const std::string key = "tokenizer.ggml.merges";
  using Merges = std::vector<std::string>;
  expect_bad_gguf(bpe(), key, Merges{"th"}, {"[0]", "'th'"});
  expect_bad_gguf(bpe(), key, Merges{""}, {"[0]"});
  expect_bad_gguf(bpe(), key, Merges{" a"}, {"[0]"});
  const std::string first = value<Merges>(bpe(), key).front();
  expect_bad_gguf(bpe(), key, Merges{first, "q q"}, {"[1]", "'qq'"});
}

TEST(BadGgufVocabulary, SpecialIds) {
  for (const int64_t id :
       {int64_t{-1}, int64_t{1} << 31, std::numeric_limits<int64_t>::max()}) {
    expect_bad_gguf(
        bpe(), "tokenizer.ggml.bos_token_id", id, {std::to_string(id)});
    expect_bad_gguf(
        bpe(), "tokenizer.ggml.eos_token_id", id, {std::to_string(id)});
  }
  auto metadata = bpe();
  metadata.erase("tokenizer.ggml.bos_token_id");
  expect_bad_gguf(metadata, "tokenizer.ggml.add_bos_token", true, {"true"});
}

TEST(BadGgufVocabulary, ScoresThatAreNoNumbers) {
  auto scores = value<std::vector<double>>(spm(), "tokenizer.ggml.scores");
  scores[7] = std::numeric_limits<double>::quiet_NaN();
  expect_bad_gguf(spm(), "tokenizer.ggml.scores", scores, {"[7]", "NaN"});
}

}  // namespace
}  // namespace mlxterp
