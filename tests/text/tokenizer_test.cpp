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
#include "tests/temp_folder.h"
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
        tokenizer.encode(
            texts[i], {.parse_special = false, .add_special = false}),
        expected[i][0].get<Ids>());
    EXPECT_EQ(tokenizer.encode(texts[i]), expected[i][1].get<Ids>());
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
    const Ids ids = tokenizer.encode(
        strings[i], {.parse_special = false, .add_special = false});
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

TEST(Tokenizer, FunctionsOfAnotherProgram) {
  // A token for each character, its number in the alphabet.
  const auto tokenizer = Tokenizer::from_functions(
      {.encode =
           [](std::string_view text) {
             std::vector<int> ids;
             for (const char c : text)
               ids.push_back(c - 'a');
             return ids;
           },
       .decode =
           [](std::span<const int> ids) {
             std::string text;
             for (const int id : ids)
               text += static_cast<char>('a' + id);
             return text;
           },
       .vocab_size = 26});
  EXPECT_EQ(tokenizer.encode("cab"), (std::vector<int>{2, 0, 1}));
  const std::vector<int> ids = {2, 0, 1};
  EXPECT_EQ(tokenizer.decode(ids), "cab");
  EXPECT_EQ(tokenizer.labels(ids), (std::vector<std::string>{"c", "a", "b"}));
  EXPECT_EQ(tokenizer.single_token("z"), 25);
  EXPECT_EQ(tokenizer.vocab_size(), 26);
  EXPECT_FALSE(tokenizer.bos() || tokenizer.eos());
  EXPECT_TRUE(tokenizer.ends().empty() && tokenizer.control_tokens().empty());
  try {
    tokenizer.single_token("ab");
    FAIL() << "two tokens were one";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::unknown_name);
    EXPECT_NE(
        std::string(error.what()).find("not one token but 2"),
        std::string::npos);
  }
  EXPECT_THROW(Tokenizer::from_functions({}), Error);
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

// make_pre_tokenizers.py: of each name what differs from `qwen2`, or the name
// of one that it is as.
TEST(Tokenizer, EveryPreTokenizerGivesTheIdsOfLlamaCpp) {
  const json all = json::parse(read(fixtures / "pre_tokenizers.json"));
  auto texts = strings();
  for (const auto& text : all["more"])
    texts.push_back(text);
  auto metadata = Gguf::open(fixtures / "pre.gguf").metadata();
  size_t compared = 0;
  for (const auto& [name, kept] : all.items()) {
    if (name == "more") continue;
    metadata["tokenizer.ggml.pre"] = name;
    const auto tokenizer =
        Tokenizer::from_json(gguf_vocabulary(metadata).tokenizer_json);
    const auto& own = kept.is_string() ? all[kept.get<std::string>()] : kept;
    for (size_t i = 0; i < texts.size(); ++i, ++compared) {
      const auto place = std::to_string(i);
      const bool differs = own.is_object() && own.contains(place);
      const auto& expected = differs ? own[place] : all["qwen2"][i];
      EXPECT_EQ(
          tokenizer.encode(
              texts[i], {.parse_special = false, .add_special = false}),
          expected.get<Ids>())
          << name << ": " << json(texts[i]).dump(-1, ' ', true);
    }
  }
  EXPECT_EQ(compared, 30u * 514);
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

// Of the published tokenizer.json and of llama.cpp's rules, which agree
// (make_gemma4.py).
TEST(Tokenizer, Gemma4OfGgufGivesThePublishedIds) {
  const auto gguf = Gguf::open(fixtures / "gemma4.gguf");
  const auto tokenizer = Tokenizer::from_gguf(gguf);
  expect_ids(tokenizer, "gemma4");
  size_t decoded = 0;
  for (const auto& text : strings()) {
    if (text.find("\xE2\x96\x81") != text.npos) continue;  // a space's spelling
    EXPECT_EQ(
        tokenizer.decode(tokenizer.encode(
            text, {.parse_special = false, .add_special = false})),
        text);
    ++decoded;
  }
  EXPECT_GT(decoded, 490u);
  // Of two tokens that are the same the later one counts, here alone.
  auto twice = gguf.metadata();
  auto& tokens =
      std::get<std::vector<std::string>>(twice.at("tokenizer.ggml.tokens"));
  auto& types =
      std::get<std::vector<int64_t>>(twice.at("tokenizer.ggml.token_type"));
  const auto twin = tokenizer.single_token("he");
  tokens.emplace_back("he");
  types.push_back(1);
  twice.erase("tokenizer.ggml.scores");
  const auto other =
      Tokenizer::from_json(gguf_vocabulary(twice).tokenizer_json);
  EXPECT_NE(other.single_token("he"), twin);
  EXPECT_EQ(other.single_token("he"), static_cast<int>(tokens.size()) - 1);
  EXPECT_EQ(other.vocab_size(), static_cast<int>(tokens.size()));
  twice["tokenizer.ggml.model"] = std::string("gpt2");
  EXPECT_THROW(gguf_vocabulary(twice), Error);
  // Its merges are needed.
  auto metadata = gguf.metadata();
  metadata.erase("tokenizer.ggml.merges");
  try {
    gguf_vocabulary(metadata);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_data);
    EXPECT_NE(
        std::string(error.what()).find("tokenizer.ggml.merges is missing"),
        std::string::npos)
        << error.what();
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

TEST(Tokenizer, SpecialTokensAreThemselvesUnlessTurnedOff) {
  const std::string text = "<|im_start|>user";
  const Ids plain = demo().encode(text, {.parse_special = false});
  EXPECT_EQ(std::count(plain.begin(), plain.end(), 1), 0);
  EXPECT_EQ(demo().decode(plain), text);
  const Ids parsed = demo().encode(text);
  EXPECT_EQ(parsed.front(), 1);
  EXPECT_EQ(demo().decode(parsed), "user");
  EXPECT_EQ(demo().decode(parsed, true), text);
}

TEST(Tokenizer, HardStringsRoundTrip) {
  const Tokenizer llama = from_json("llama3");
  const Tokenizer pieces = from_json("sentencepiece");
  for (const std::string& text : strings()) {
    SCOPED_TRACE(json(text).dump(-1, ' ', true));
    EXPECT_EQ(llama.decode(llama.encode(text, {.parse_special = false})), text);
    expect_labels(llama, text);
    expect_labels(pieces, text);
    // U+2581 is how SentencePiece writes a space, and it puts one after an
    // added token.
    if (text.find("\xE2\x96\x81") == std::string::npos &&
        text != "call <|tool|> now") {
      EXPECT_EQ(
          pieces.decode(pieces.encode(text, {.parse_special = false})), text);
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

// A row of the embedding that no token stands for, as many models have.
TEST(Tokenizer, IdsWithoutATokenAreShownAsIds) {
  for (const int id : {-1, 49152, 151'936, 1'000'000'000}) {
    const auto name = "<id " + std::to_string(id) + ">";
    EXPECT_EQ(demo().decode(Ids{504, id, 504}), "The" + name + "The");
    EXPECT_EQ(
        demo().labels(Ids{504, id, 504}),
        (std::vector<std::string>{"The", name, "The"}));
  }
  // A hole in a vocabulary whose text the crate makes.
  const auto holes = Tokenizer::from_json(R"({"version":"1.0",
    "added_tokens":[],"normalizer":null,
    "pre_tokenizer":{"type":"Whitespace"},"post_processor":null,
    "decoder":{"type":"WordPiece","prefix":"##","cleanup":false},
    "model":{"type":"WordPiece","unk_token":"a",
      "continuing_subword_prefix":"##","max_input_chars_per_word":100,
      "vocab":{"a":0,"b":2}}})");
  EXPECT_EQ(holes.vocab_size(), 3);
  EXPECT_EQ(holes.labels(Ids{1}).front(), "<id 1>");
  EXPECT_EQ(holes.decode(Ids{0, 1, 2}), "a<id 1>b");
  // Half a character before it stays visible.
  const auto llama = from_json("llama3");
  const Ids ids = llama.encode("\xF0\x9F\xA5\x9D", {.add_special = false});
  ASSERT_GT(ids.size(), 1u);
  EXPECT_EQ(llama.labels(Ids{ids[0], -5})[1], "<id -5>");
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

/** A folder with a config and a tensor, to put a tokenizer into. */
struct Folder {
  Folder() {
    const std::string header =
        R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
    std::string weights;
    for (size_t i = 0, n = header.size(); i < 8; i++, n >>= 8)
      weights += static_cast<char>(n & 0xFF);
    write("model.safetensors", weights + header + std::string(4, '\0'));
    write("config.json", R"({"model_type":"llama","eos_token_id":[7,8]})");
  }

  void write(const char* name, const std::string& text) const {
    temp.write(name, text);
  }
  std::optional<Tokenizer> load() const {
    return Tokenizer::load(Checkpoint::open(temp.path()));
  }

  testing::TempFolder temp;
};

// The fixture's vocabulary with two more tokens that only the model knows, and
// without those beside it.
json bare_llama3() {
  json file = json::parse(read(fixtures / "llama3.tokenizer.json"));
  const auto size = file["model"]["vocab"].size();
  file["added_tokens"] = json::array();
  file["post_processor"] = nullptr;
  file["model"]["vocab"]["<in>"] = size;
  return file;
}

// Wherever transformers reads added tokens from, a prompt has them.
TEST(Tokenizer, AddedTokensBesideTokenizerJson) {
  const json file = bare_llama3();
  const int in = file["model"]["vocab"]["<in>"];
  const int next = static_cast<int>(file["model"]["vocab"].size());
  const std::string text = "<in>a<new>";
  const auto ids_with =
      [&](const std::vector<std::pair<const char*, json>>& files) {
        const Folder folder;
        folder.write("tokenizer.json", file.dump());
        for (const auto& [name, content] : files)
          folder.write(name, content.dump());
        return folder.load()->encode(text);
      };
  EXPECT_GT(ids_with({}).size(), 3u);
  const int a = file["model"]["vocab"]["a"];
  const Ids both{in, a, next};
  const json decoder = {
      {std::to_string(in), {{"content", "<in>"}, {"special", true}}},
      {std::to_string(next), {{"content", "<new>"}, {"special", false}}}};
  EXPECT_EQ(
      ids_with(
          {{"tokenizer_config.json", {{"added_tokens_decoder", decoder}}}}),
      both);
  EXPECT_EQ(
      ids_with({{"added_tokens.json", {{"<in>", in}, {"<new>", next}}}}), both);
  EXPECT_EQ(
      ids_with(
          {{"tokenizer_config.json",
            {{"eos_token", "<in>"},
             {"additional_special_tokens", {"<new>"}}}}}),
      both);
  EXPECT_EQ(
      ids_with(
          {{"special_tokens_map.json",
            {{"eos_token", {{"content", "<in>"}, {"rstrip", true}}},
             {"pad_token", "<new>"}}}}),
      both);
  // added_tokens_decoder says all there is; the older files are not read then.
  const json one = {{std::to_string(in), {{"content", "<in>"}}}};
  const auto ids = ids_with(
      {{"tokenizer_config.json", {{"added_tokens_decoder", one}}},
       {"added_tokens.json", {{"<new>", next}}}});
  EXPECT_EQ(ids.front(), in);
  EXPECT_GT(ids.size(), 3u);
}

TEST(Tokenizer, AddedTokensKeepTheirAttributes) {
  const json file = bare_llama3();
  const Folder folder;
  folder.write("tokenizer.json", file.dump());
  const int in = file["model"]["vocab"]["<in>"];
  const json token = {{"content", "<in>"}, {"special", true}, {"rstrip", true}};
  const json config = {{"added_tokens_decoder", {{std::to_string(in), token}}}};
  folder.write("tokenizer_config.json", config.dump());
  const auto tokenizer = folder.load();
  const int a = file["model"]["vocab"]["a"];
  EXPECT_EQ(tokenizer->encode("<in> \n a"), (Ids{in, a}));
  EXPECT_EQ(tokenizer->control_tokens(), (Ids{in}));
}

TEST(Tokenizer, AnAddedTokenOfAnotherIdIsRefused) {
  const Folder folder;
  folder.write("tokenizer.json", bare_llama3().dump());
  folder.write("added_tokens.json", R"({"<new>": 100000})");
  std::string message;
  EXPECT_EQ(kind_of([&] { folder.load(); }, &message), ErrorKind::bad_data);
  EXPECT_NE(message.find("'<new>' the id 100000"), message.npos) << message;
  const auto found = Tokenizer::find(Checkpoint::open(folder.temp.path()));
  EXPECT_FALSE(found.tokenizer);
  EXPECT_EQ(found.reason, message);
}

// GPT-2's files from before tokenizer.json, and OPT's, which begins with BOS.
TEST(Tokenizer, VocabularyAndMergesWithoutTokenizerJson) {
  const Tokenizer whole = with_pre("gpt-2");
  const auto metadata = Gguf::open(fixtures / "bpe.gguf").metadata();
  const auto& tokens =
      std::get<std::vector<std::string>>(metadata.at("tokenizer.ggml.tokens"));
  const auto& merges =
      std::get<std::vector<std::string>>(metadata.at("tokenizer.ggml.merges"));
  json vocabulary;
  for (size_t i = 0; i < tokens.size(); i++)
    vocabulary[tokens[i]] = i;
  std::string lines = "#version: 0.2\n";
  for (const auto& merge : merges)
    lines += merge + "\n";
  const Folder folder;
  folder.write("vocab.json", vocabulary.dump());
  EXPECT_FALSE(folder.load());
  folder.write("merges.txt", lines);
  // Which of the tokens are matched as a whole stands outside both files.
  const std::string tool = "<|tool|>";
  folder.write("added_tokens.json", json{{tool, vocabulary.at(tool)}}.dump());
  const auto tokenizer = folder.load();
  ASSERT_TRUE(tokenizer);
  size_t compared = 0;
  for (const auto& text : strings()) {
    const EncodeOptions plain{.parse_special = false, .add_special = false};
    Ids expected;
    try {
      expected = whole.encode(text, plain);
    } catch (const Error&) {
      continue;
    }
    EXPECT_EQ(tokenizer->encode(text, plain), expected) << text;
    ++compared;
  }
  EXPECT_GT(compared, 400u);

  const auto& bos = tokens.front();
  folder.write(
      "tokenizer_config.json",
      json{
          {"tokenizer_class", "GPT2Tokenizer"},
          {"bos_token", bos},
          {"add_bos_token", true}}
          .dump());
  EXPECT_EQ(folder.load()->encode("").front(), 0);
  folder.write(
      "tokenizer_config.json", R"({"tokenizer_class":"RobertaTokenizer"})");
  std::string message;
  EXPECT_EQ(kind_of([&] { folder.load(); }, &message), ErrorKind::bad_data);
  EXPECT_NE(message.find("RobertaTokenizer"), message.npos) << message;
}

// What transformers' Phi-3 tokenizer does, and a GGUF file does not say.
TEST(Tokenizer, Phi3sControlTokensTakeSpacesBehindThem) {
  auto metadata = Gguf::open(fixtures / "spm.gguf").metadata();
  const auto& tokens =
      std::get<std::vector<std::string>>(metadata.at("tokenizer.ggml.tokens"));
  const auto& types =
      std::get<std::vector<int64_t>>(metadata.at("tokenizer.ggml.token_type"));
  std::string control;
  for (size_t i = 0; i < types.size(); i++)
    if (types[i] == 3 && tokens[i] != "<s>") control = tokens[i];
  ASSERT_FALSE(control.empty());
  const auto encode = [&](const std::string& text) {
    return Tokenizer::from_json(gguf_vocabulary(metadata).tokenizer_json)
        .encode(text);
  };
  metadata["general.architecture"] = std::string("llama");
  EXPECT_NE(encode(control + " \n a"), encode(control + "a"));
  metadata["general.name"] = std::string("Microsoft Phi-3 mini");
  EXPECT_EQ(encode(control + " \n a"), encode(control + "a"));
  metadata.erase("general.name");
  metadata["general.architecture"] = std::string("phi3");
  EXPECT_EQ(encode(control + " \n a"), encode(control + "a"));
  EXPECT_NE(encode("<s> \n a"), encode("<s>a"));
}

TEST(Tokenizer, LoadFindsBosAndEosOfAFolder) {
  const Folder folder;
  const auto write = [&](const char* name, const std::string& text) {
    folder.write(name, text);
  };
  EXPECT_FALSE(folder.load());

  write("tokenizer.json", read(fixtures / "llama3.tokenizer.json"));
  write(
      "tokenizer_config.json",
      R"({"bos_token":{"content":"<|begin_of_text|>"},"eos_token":null})");
  const auto tokenizer = folder.load();
  ASSERT_TRUE(tokenizer);
  EXPECT_EQ(tokenizer->bos(), tokenizer->single_token("<|begin_of_text|>"));
  EXPECT_EQ(tokenizer->eos(), 7);
  EXPECT_EQ(tokenizer->ends(), (Ids{7, 8}));
  // Chat models have more of them there.
  write("generation_config.json", R"({"eos_token_id":[8,9,-1,100000]})");
  EXPECT_EQ(folder.load()->ends(), (Ids{7, 8, 9}));
  std::vector<std::string> control;
  for (const int id : tokenizer->control_tokens())
    control.push_back(tokenizer->labels(Ids{id}).front());
  EXPECT_EQ(
      control,
      (std::vector<std::string>{
          "<|begin_of_text|>", "<|im_start|>", "<|im_end|>"}));
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
        const Ids plain = tokenizer.encode(texts[at], {.parse_special = false});
        wrong += ids != expected[at] || tokenizer.decode(plain) != texts[at];
      }
    });
  for (std::thread& thread : threads)
    thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace mlxterp
