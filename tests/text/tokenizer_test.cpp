#include "mlxterp/text/tokenizer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>

#include "mlxterp/core/error.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/core/paths.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/gguf.h"
#include "text/gguf_vocabulary.h"

namespace mlxterp {
namespace {

using nlohmann::json;
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

std::vector<std::string> strings() {
  return json::parse(read(fixtures / "strings.json"));
}

const Tokenizer& demo() {
  static const Tokenizer tokenizer = [] {
    if (!std::filesystem::exists(demo_model_path()))
      throw std::runtime_error("no demo model; run `make demo`");
    return Tokenizer::from_gguf(Gguf::open(demo_model_path()));
  }();
  return tokenizer;
}

Tokenizer from_json(const std::string& name) {
  return Tokenizer::from_json(read(fixtures / (name + ".tokenizer.json")));
}

// bpe.gguf as it would be with another pre-tokenizer.
Tokenizer with_pre(const std::string& pre) {
  auto metadata = Gguf::open(fixtures / "bpe.gguf").metadata();
  metadata["tokenizer.ggml.pre"] = pre;
  return Tokenizer::from_json(gguf_vocabulary(metadata).tokenizer_json);
}

// Every string's ids, as user text and with special tokens, against an
// oracle's. A null there: the vocabulary lacks a byte of the string.
void expect_ids(const Tokenizer& tokenizer, const std::string& oracle) {
  const std::vector<std::string> texts = strings();
  const json expected = json::parse(read(fixtures / (oracle + ".ids.json")));
  ASSERT_EQ(texts.size(), 500u);
  ASSERT_EQ(expected.size(), texts.size());
  for (size_t i = 0; i < texts.size(); i++) {
    SCOPED_TRACE(oracle + ": " + json(texts[i]).dump(-1, ' ', true));
    if (expected[i].is_null()) {
      EXPECT_THROW(tokenizer.encode(texts[i]), Error);
      continue;
    }
    EXPECT_EQ(
        tokenizer.encode(texts[i], {.add_special = false}),
        expected[i][0].get<Ids>());
    EXPECT_EQ(
        tokenizer.encode(texts[i], {.parse_special = true}),
        expected[i][1].get<Ids>());
  }
}

// Strings that are not UTF-8.
std::vector<std::string> byte_strings() {
  std::vector<std::string> strings;
  for (const std::string hex : json::parse(read(fixtures / "bytes.json"))) {
    auto& bytes = strings.emplace_back();
    for (size_t i = 0; i < hex.size(); i += 2)
      bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  EXPECT_EQ(strings.size(), 40u);
  return strings;
}

void expect_bytes(const Tokenizer& tokenizer, const std::string& oracle) {
  const auto strings = byte_strings();
  const json expected = json::parse(read(fixtures / (oracle + ".bytes.json")));
  ASSERT_EQ(expected.size(), strings.size());
  for (size_t i = 0; i < strings.size(); i++) {
    const Ids ids = tokenizer.encode(strings[i], {.add_special = false});
    EXPECT_EQ(ids, expected[i].get<Ids>()) << oracle << " " << i;
    // Metaspace adds no space before one, and takes it for its own.
    if (oracle.starts_with("metaspace") && strings[i].starts_with(' '))
      continue;
    EXPECT_EQ(tokenizer.decode(ids), strings[i]) << oracle << " " << i;
  }
}

// The bytes of the labels add up to the text, and no character is split.
void expect_labels(const Tokenizer& tokenizer, const std::string& text) {
  const Ids ids = tokenizer.encode(text, {.add_special = false});
  const std::vector<std::string> labels = tokenizer.labels(ids);
  ASSERT_EQ(labels.size(), ids.size());
  for (const std::string& label : labels)
    EXPECT_NO_THROW(json(label).dump()) << "not UTF-8";
}

ErrorKind kind_of(const std::function<void()>& call, std::string* message) {
  try {
    call();
  } catch (const Error& error) {
    *message = error.what();
    return error.kind();
  }
  ADD_FAILURE() << "no error";
  return ErrorKind::usage;
}

TEST(Tokenizer, DemoModelIdsAreThoseOfLlamaCpp) {
  expect_ids(demo(), "smollm2");
}

TEST(Tokenizer, DemoModelPrompts) {
  EXPECT_EQ(
      demo().encode("The Eiffel Tower is located in the city of"),
      (Ids{504, 414, 46682, 18669, 314, 3807, 281, 260, 2240, 282}));
  EXPECT_EQ(
      demo()
          .encode("When Mary and John went to the store, John gave a drink to")
          .size(),
      14u);
  EXPECT_EQ(demo().single_token(" Mary"), 5099);
  EXPECT_EQ(demo().single_token(" John"), 2322);
  EXPECT_EQ(demo().single_token("<|im_start|>"), 1);
  EXPECT_EQ(demo().vocab_size(), 49152);
  EXPECT_EQ(demo().bos(), 1);
  EXPECT_EQ(demo().eos(), 2);
}

TEST(Tokenizer, LoadReadsTheVocabularyOfAGguf) {
  const auto tokenizer = Tokenizer::load(Checkpoint::open(demo_model_path()));
  ASSERT_TRUE(tokenizer) << "run `make demo`";
  EXPECT_EQ(tokenizer->single_token(" Mary"), 5099);
}

TEST(Tokenizer, GgufPreTokenizersGiveTheIdsOfLlamaCpp) {
  for (const char* pre : {"default", "gpt-2", "smollm", "smaug-bpe", "qwen2"})
    expect_ids(with_pre(pre), pre);
  expect_ids(
      Tokenizer::from_gguf(Gguf::open(fixtures / "llama-bpe.gguf")),
      "llama-bpe");
}

// With a space before the first word, and, as Gemma's, without.
TEST(Tokenizer, GgufSentencePieceGivesTheIdsOfLlamaCpp) {
  for (const std::string name : {"spm", "gemma"}) {
    const auto tokenizer =
        Tokenizer::from_gguf(Gguf::open(fixtures / (name + ".gguf")));
    expect_ids(tokenizer, name);
    expect_bytes(tokenizer, name);
  }
}

TEST(Tokenizer, JsonGivesTheIdsOfTransformers) {
  for (const std::string name :
       {"llama3", "qwen2", "sentencepiece", "metaspace"}) {
    expect_ids(from_json(name), name + ".tokenizer");
    expect_bytes(from_json(name), name + ".tokenizer");
  }
}

// It has no token for some bytes; the error says which, and where it stands.
TEST(Tokenizer, DemoModelTakesBytesOrNamesThem) {
  int taken = 0, named = 0;
  for (const auto& bytes : byte_strings()) {
    try {
      EXPECT_EQ(demo().decode(demo().encode(bytes)), bytes);
      ++taken;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage) << error.what();
      EXPECT_NE(
          std::string(error.what()).find(" at offset "), std::string::npos)
          << error.what();
      ++named;
    }
  }
  EXPECT_GT(taken, 0);
  EXPECT_GT(named, 0);
}

TEST(Tokenizer, SpecialTokensInUserTextArePlainText) {
  const std::string text = "<|im_start|>user";
  const Ids plain = demo().encode(text);
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 1), 0);
  EXPECT_EQ(demo().decode(plain), text);
  const Ids parsed = demo().encode(text, {.parse_special = true});
  EXPECT_EQ(parsed.front(), 1);
  EXPECT_EQ(demo().decode(parsed), "user");
  EXPECT_EQ(demo().decode(parsed, true), text);
}

TEST(Tokenizer, HardStringsRoundTrip) {
  const Tokenizer llama = from_json("llama3");
  const Tokenizer pieces = from_json("sentencepiece");
  for (const std::string& text : strings()) {
    SCOPED_TRACE(json(text).dump(-1, ' ', true));
    EXPECT_EQ(llama.decode(llama.encode(text)), text);
    expect_labels(llama, text);
    expect_labels(pieces, text);
    // U+2581 is how SentencePiece writes a space, and it puts one after an
    // added token.
    if (text.find("\xE2\x96\x81") == std::string::npos &&
        text != "call <|tool|> now") {
      EXPECT_EQ(pieces.decode(pieces.encode(text)), text);
    }
  }
}

TEST(Tokenizer, RandomBytesRoundTrip) {
  const Tokenizer llama = from_json("llama3");
  const Tokenizer gpt2 = with_pre("gpt-2");
  std::mt19937 random(1);
  for (int round = 0; round < 500; round++) {
    std::string text(random() % 64, '\0');
    for (char& c : text)
      c = static_cast<char>(round % 2 ? random() % 256 : 0x80 + random() % 128);
    EXPECT_EQ(llama.decode(llama.encode(text)), text);
    EXPECT_EQ(gpt2.decode(gpt2.encode(text, {.parse_special = true})), text);
    expect_labels(llama, text);
  }
}

TEST(Tokenizer, BosStandsBeforeTextThatIsNotUtf8) {
  const Tokenizer llama = from_json("llama3");
  const int bos = llama.single_token("<|begin_of_text|>");
  const Ids with = llama.encode("a\xFF\xFE");
  const Ids without = llama.encode("a\xFF\xFE", {.add_special = false});
  ASSERT_EQ(with.size(), without.size() + 1);
  EXPECT_EQ(with.front(), bos);
  EXPECT_EQ(Ids(with.begin() + 1, with.end()), without);
}

TEST(Tokenizer, ByteFallbackTakesWhatIsNotUtf8) {
  const Tokenizer pieces = from_json("sentencepiece");
  const Ids ids = pieces.encode("\xFF", {.add_special = false});
  // The space that it puts before every text, as llama.cpp does.
  EXPECT_EQ(
      ids, (Ids{pieces.single_token(" "), pieces.single_token("<0xFF>")}));
  EXPECT_EQ(pieces.decode(ids), "\xFF");
}

TEST(Tokenizer, MissingByteIsAnErrorWithItsOffset) {
  std::string message;
  EXPECT_EQ(
      kind_of([] { demo().encode("abc\xFFz"); }, &message), ErrorKind::usage);
  EXPECT_NE(message.find("0xFF at offset 3"), std::string::npos) << message;
  // A control character the vocabulary lacks would be dropped silently.
  EXPECT_EQ(
      kind_of([] { demo().encode("ab\x04"); }, &message), ErrorKind::usage);
  EXPECT_NE(message.find("0x04 at offset 2"), std::string::npos) << message;
}

TEST(Tokenizer, DecodeRefusesIdsThatAreNone) {
  for (const int id : {-1, 49152, 1'000'000'000}) {
    std::string message;
    const Ids ids{504, id};
    EXPECT_EQ(
        kind_of([&] { demo().decode(ids); }, &message),
        ErrorKind::out_of_range);
    EXPECT_NE(message.find(std::to_string(id)), std::string::npos) << message;
    EXPECT_THROW(demo().labels(ids), Error);
  }
}

TEST(Tokenizer, LabelsNeverSplitACharacter) {
  const Tokenizer llama = from_json("llama3");
  const Ids ids = llama.encode("a\xF0\x9F\xA5\x9D!", {.add_special = false});
  const std::vector<std::string> labels = llama.labels(ids);
  ASSERT_GT(labels.size(), 3u) << "the emoji should not be a token";
  EXPECT_EQ(labels[0], "a");
  EXPECT_EQ(labels[1], "\xF0\x9F\xA5\x9D");
  for (size_t i = 2; i + 1 < labels.size(); i++)
    EXPECT_TRUE(labels[i].starts_with("<0x")) << labels[i];
  EXPECT_EQ(labels.back(), "!");
  // Half a character at the end stays visible.
  EXPECT_EQ(llama.labels(Ids{ids[0], ids[1]})[1].substr(0, 3), "<0x");
}

TEST(Tokenizer, LabelsOfSpecialTokensAreTheirNames) {
  EXPECT_EQ(
      demo().labels(Ids{1, 504}),
      (std::vector<std::string>{"<|im_start|>", "The"}));
}

TEST(Tokenizer, SingleTokenNamesWhatItSplitsInto) {
  std::string message;
  EXPECT_EQ(
      kind_of([] { demo().single_token(" Mary Ann"); }, &message),
      ErrorKind::unknown_name);
  EXPECT_NE(message.find("5099 ' Mary'"), std::string::npos) << message;
  EXPECT_THROW(demo().single_token(""), Error);
}

TEST(Tokenizer, SingleTokenOfSentencePieceIsExact) {
  const Tokenizer pieces = from_json("sentencepiece");
  const int with_space = pieces.single_token(" the");
  const int bare = pieces.single_token("t");
  EXPECT_EQ(pieces.labels(Ids{with_space}).front(), " the");
  EXPECT_EQ(pieces.labels(Ids{bare}).front(), "t");
}

TEST(Tokenizer, EmptyText) {
  EXPECT_TRUE(demo().encode("").empty());
  EXPECT_EQ(demo().decode(Ids{}), "");
  EXPECT_TRUE(demo().labels(Ids{}).empty());
  EXPECT_EQ(from_json("llama3").encode("").size(), 1u);  // BOS
}

TEST(Tokenizer, TruncationAndPaddingOfTheFileAreIgnored) {
  json file = json::parse(read(fixtures / "llama3.tokenizer.json"));
  file["truncation"] = {
      {"max_length", 2},
      {"strategy", "LongestFirst"},
      {"stride", 0},
      {"direction", "Right"}};
  file["padding"] = {
      {"strategy", {{"Fixed", 64}}},
      {"direction", "Right"},
      {"pad_to_multiple_of", nullptr},
      {"pad_id", 0},
      {"pad_type_id", 0},
      {"pad_token", "a"}};
  const auto tokenizer = Tokenizer::from_json(file.dump());
  EXPECT_EQ(
      tokenizer.encode("one two three four"),
      from_json("llama3").encode("one two three four"));
}

TEST(Tokenizer, OtherVocabulariesUseTheCratesDecoder) {
  const auto tokenizer = Tokenizer::from_json(R"({"version":"1.0",
    "added_tokens":[{"id":0,"content":"[UNK]","single_word":false,
      "lstrip":false,"rstrip":false,"normalized":false,"special":true}],
    "normalizer":{"type":"Lowercase"},
    "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,
    "decoder":{"type":"WordPiece","prefix":"##","cleanup":false},
    "model":{"type":"WordPiece","unk_token":"[UNK]",
      "continuing_subword_prefix":"##","max_input_chars_per_word":100,
      "vocab":{"[UNK]":0,"play":1,"##ing":2,"now":3}}})");
  const Ids ids = tokenizer.encode("Playing now");
  EXPECT_EQ(ids, (Ids{1, 2, 3}));
  EXPECT_EQ(tokenizer.decode(ids), "playing now");
  EXPECT_THROW(tokenizer.encode("\xFF"), Error);
}

TEST(Tokenizer, LoadFindsBosAndEosOfAFolder) {
  const auto folder =
      std::filesystem::temp_directory_path() /
      ("mlxterp-text-" + std::to_string(std::random_device{}()));
  std::filesystem::create_directory(folder);
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(folder / name, std::ios::binary) << text;
  };
  const std::string header =
      R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  std::string weights;
  for (size_t i = 0, n = header.size(); i < 8; i++, n >>= 8)
    weights += static_cast<char>(n & 0xFF);
  write("model.safetensors", weights + header + std::string(4, '\0'));
  write("config.json", R"({"model_type":"llama","eos_token_id":[7,8]})");
  EXPECT_FALSE(Tokenizer::load(Checkpoint::open(folder)));

  write("tokenizer.json", read(fixtures / "llama3.tokenizer.json"));
  write(
      "tokenizer_config.json",
      R"({"bos_token":{"content":"<|begin_of_text|>"},"eos_token":null})");
  const auto tokenizer = Tokenizer::load(Checkpoint::open(folder));
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->bos(), tokenizer->single_token("<|begin_of_text|>"));
  EXPECT_EQ(tokenizer->eos(), 7);
  EXPECT_EQ(tokenizer->ends(), (Ids{7, 8}));
  // Chat models have more of them there.
  write("generation_config.json", R"({"eos_token_id":[8,9,-1,100000]})");
  EXPECT_EQ(Tokenizer::load(Checkpoint::open(folder))->ends(), (Ids{7, 8, 9}));
  std::vector<std::string> control;
  for (const int id : tokenizer->control_tokens())
    control.push_back(tokenizer->labels(Ids{id}).front());
  EXPECT_EQ(
      control,
      (std::vector<std::string>{
          "<|begin_of_text|>", "<|im_start|>", "<|im_end|>"}));
  std::filesystem::remove_all(folder);
}

TEST(Tokenizer, SeveralThreadsEncodeAtOnce) {
  const std::vector<std::string> texts = strings();
  const Tokenizer tokenizer = from_json("llama3");
  std::vector<Ids> expected;
  for (const std::string& text : texts)
    expected.push_back(from_json("llama3").encode(text));
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 8; t++)
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); i++) {
        const size_t at = (i * 7 + t) % texts.size();
        const Ids ids = tokenizer.encode(texts[at]);
        // Makes the tokenizer for special tokens on all threads at once.
        tokenizer.encode(texts[at], {.parse_special = true});
        wrong += ids != expected[at] || tokenizer.decode(ids) != texts[at];
      }
    });
  for (std::thread& thread : threads)
    thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace mlxterp
