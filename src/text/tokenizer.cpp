#include "mlxterp/text/tokenizer.h"

#include <tokenizers_c.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/fail.h"
#include "core/utf8.h"
#include "io/json.h"
#include "io/model_folder.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/gguf.h"
#include "text/gguf_vocabulary.h"
#include "text/tokenizer_files.h"

namespace mlxterp {

namespace {

using nlohmann::json;

// How the vocabulary writes bytes down, so that they can be had back exactly.
enum class Spelling {
  byte_level,      // every byte is a printable character, as in GPT-2
  sentence_piece,  // text with U+2581 for a space, other bytes as <0xNN>
  other,           // the crate's decoder knows
};

constexpr std::string_view lower_one_eighth_block = "\xE2\x96\x81";

// GPT-2 writes a byte as the character of the same number where that is
// printable in Latin-1, the others, in order, as U+0100 and up.
std::array<char32_t, 256> byte_alphabet() {
  std::array<char32_t, 256> alphabet{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; byte++) {
    const bool printable_byte =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    alphabet[byte] = printable_byte ? byte : next++;
  }
  return alphabet;
}

// Byte of each character of the alphabet, which ends at U+0143; else -1.
std::array<int, 0x144> bytes_of_alphabet() {
  std::array<int, 0x144> bytes;
  bytes.fill(-1);
  const auto alphabet = byte_alphabet();
  for (int byte = 0; byte < 256; byte++)
    bytes[alphabet[byte]] = byte;
  return bytes;
}

// A character below U+0800.
std::string utf8(char32_t c) {
  if (c < 0x80) return {static_cast<char>(c)};
  return {
      static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3F))};
}

// The bytes a byte-level token spells. One that leaves the alphabet stands
// for its own text.
std::string byte_level_bytes(std::string_view token) {
  static const auto bytes = bytes_of_alphabet();
  std::string out;
  out.reserve(token.size());
  for (size_t i = 0; i < token.size();) {
    const size_t length = utf8_length(token.substr(i));
    const auto first = static_cast<unsigned char>(token[i]);
    size_t c = bytes.size();
    if (length == 1) c = first;
    if (length == 2) c = ((first & 0x1Fu) << 6) | (token[i + 1] & 0x3Fu);
    if (c >= bytes.size() || bytes[c] < 0) return std::string(token);
    out += static_cast<char>(bytes[c]);
    i += length;
  }
  return out;
}

std::string byte_name(unsigned char byte) {
  return fmt::format("<0x{:02X}>", byte);
}

std::string sentence_piece_bytes(std::string_view token) {
  if (token.size() == 6 && token.starts_with("<0x") && token.back() == '>') {
    const auto digit = [](char c) {
      return std::string_view("0123456789ABCDEF").find(c);
    };
    const size_t high = digit(token[3]);
    const size_t low = digit(token[4]);
    if (high < 16 && low < 16) return {static_cast<char>(high * 16 + low)};
  }
  std::string out;
  for (size_t at = 0; at < token.size();) {
    if (token.substr(at).starts_with(lower_one_eighth_block)) {
      out += ' ';
      at += lower_one_eighth_block.size();
    } else {
      out += token[at++];
    }
  }
  return out;
}

// Whether the decoder, or a step of it, is of that type.
bool has_step(const json& decoder, std::string_view type) {
  if (!decoder.is_object()) return false;
  if (decoder.value("type", "") == type) return true;
  const auto steps = decoder.find("decoders");
  return steps != decoder.end() && steps->is_array() &&
         std::any_of(steps->begin(), steps->end(), [&](const json& step) {
           return has_step(step, type);
         });
}

// Whether the decoder takes back a space put in front of every text.
bool strips_space(const json& decoder) {
  if (!decoder.is_object()) return false;
  const std::string type = decoder.value("type", "");
  if (type == "Strip")
    return decoder.value("content", "") == " " && decoder.value("start", 0) > 0;
  if (type == "Metaspace")
    return decoder.value("prepend_scheme", "always") != "never";
  const auto steps = decoder.find("decoders");
  return steps != decoder.end() && steps->is_array() &&
         std::any_of(steps->begin(), steps->end(), strips_space);
}

// Throws what the crate reported, if it did.
void check(
    char* message,
    std::string_view function,
    std::string_view what,
    std::string_view advice = "the tokenizer.json is broken") {
  if (!message) return;
  const std::string text = printable(message, 300);
  tkc_free_message(message);
  fail(ErrorKind::bad_data, "[{}] {} ({}); {}", function, what, text, advice);
}

}  // namespace

struct Tokenizer::Handle {
  explicit Handle(std::string_view text, const std::string& added = "") {
    if (text.size() > limits::tokenizer_bytes)
      fail(
          ErrorKind::bad_data,
          "[Tokenizer::from_json] the text has {} bytes, the limit is {}; is "
          "it a tokenizer.json?",
          text.size(),
          limits::tokenizer_bytes);
    check(
        tkc_new(
            text.data(),
            text.size(),
            added.data(),
            added.size(),
            {.vocabulary = limits::vocab,
             .steps = limits::tokenizer_steps,
             .pattern_bytes = limits::tokenizer_pattern_bytes,
             .text_bytes = limits::tokenizer_text_bytes,
             .seconds = limits::tokenizer_seconds},
            &crate),
        "Tokenizer::from_json",
        "this is not a usable tokenizer.json",
        "export the tokenizer again");
    try {
      size = static_cast<int>(tkc_vocabulary_size(crate));
      if (size == 0)
        fail(
            ErrorKind::bad_data,
            "[Tokenizer::from_json] the vocabulary is empty; export the "
            "tokenizer again");
      read_spelling();
      for (int byte = 0; byte < 256; byte++)
        byte_ids[byte] = byte_id(byte);
    } catch (...) {
      tkc_free(crate);
      throw;
    }
  }
  ~Handle() { tkc_free(crate); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  void read_spelling() {
    size_t length = 0;
    const char* text = tkc_decoder(crate, &length);
    const json decoder =
        json::parse(std::string_view(text, length), nullptr, false);
    if (has_step(decoder, "ByteLevel")) {
      spelling = Spelling::byte_level;
    } else if (
        has_step(decoder, "ByteFallback") || has_step(decoder, "Metaspace")) {
      spelling = Spelling::sentence_piece;
      strip_space = strips_space(decoder);
    }
  }

  int32_t byte_id(int byte) const {
    static const auto alphabet = byte_alphabet();
    if (spelling == Spelling::other) return -1;
    const auto id = token_id(
        spelling == Spelling::byte_level
            ? utf8(alphabet[byte])
            : byte_name(static_cast<unsigned char>(byte)));
    return id && !token(*id)->added ? *id : -1;
  }

  std::optional<int> token_id(std::string_view text) const {
    int64_t id = -1;
    check(
        tkc_token_id(crate, text.data(), text.size(), &id),
        "Tokenizer",
        "looking a token up failed");
    return id < 0 ? std::nullopt : std::optional(static_cast<int>(id));
  }

  std::optional<tkc_token_info> token(int id) const {
    tkc_token_info info{};
    if (id < 0 || !tkc_token(crate, static_cast<size_t>(id), &info))
      return std::nullopt;
    return info;
  }

  // What stands for a token wherever tokens are shown.
  std::string shown(int id) const {
    const auto info = token(id);
    return info ? bytes(*info) : fmt::format("<id {}>", id);
  }

  // The bytes one token stands for.
  std::string bytes(const tkc_token_info& info) const {
    const std::string_view text(info.text, info.length);
    // An added token is literal, but SentencePiece's user-defined runs of
    // spaces are not.
    if (info.added && (info.special || spelling == Spelling::byte_level))
      return std::string(text);
    switch (spelling) {
      case Spelling::byte_level:
        return byte_level_bytes(text);
      case Spelling::sentence_piece:
        return sentence_piece_bytes(text);
      case Spelling::other:
        break;
    }
    return std::string(text);
  }

  void check_bytes(std::string_view text) const {
    for (size_t i = 0; i < text.size();) {
      const size_t length = utf8_length(text.substr(i));
      // The crate drops a byte that a byte-level vocabulary does not have.
      const bool needs_byte = length == 0 || spelling == Spelling::byte_level;
      for (size_t j = 0; needs_byte && j < std::max<size_t>(length, 1); j++) {
        const auto byte = static_cast<unsigned char>(text[i + j]);
        if (byte_ids[byte] < 0)
          fail(
              ErrorKind::usage,
              "[Tokenizer::encode] the byte 0x{:02X} at offset {} {}, and the "
              "vocabulary has no token for it; take it out of the text",
              byte,
              i + j,
              length ? "is needed" : "is not UTF-8");
      }
      i += std::max<size_t>(length, 1);
    }
  }

  tkc_tokenizer* crate = nullptr;
  int size = 0;
  Spelling spelling = Spelling::other;
  bool strip_space = false;
  std::array<int32_t, 256> byte_ids{};  // -1: no token is this byte alone
  std::optional<int> bos;
  std::optional<int> eos;
  std::vector<int> ends;

  // Ids that end a text, as configs name them: one or a list.
  void add_ends(const json& ids) {
    for (const json& id : ids.is_array() ? ids : json::array({ids})) {
      if (!id.is_number_integer()) continue;
      const auto value = id.get<int64_t>();
      if (value < 0 || value >= size || std::ranges::count(ends, value))
        continue;
      ends.push_back(static_cast<int>(value));
    }
  }
};

Tokenizer Tokenizer::from_json(std::string_view tokenizer_json) {
  Tokenizer tokenizer;
  tokenizer.handle_ = std::make_shared<Handle>(tokenizer_json);
  return tokenizer;
}

Tokenizer Tokenizer::from_gguf(const Gguf& gguf) {
  const GgufVocabulary vocabulary = gguf_vocabulary(gguf.metadata());
  auto handle = std::make_shared<Handle>(vocabulary.tokenizer_json);
  handle->bos = vocabulary.bos;
  handle->eos = vocabulary.eos;
  if (handle->eos) handle->add_ends(*handle->eos);
  const auto& metadata = gguf.metadata();
  if (const auto eot = metadata.find("tokenizer.ggml.eot_token_id");
      eot != metadata.end() && std::holds_alternative<int64_t>(eot->second))
    handle->add_ends(std::get<int64_t>(eot->second));
  Tokenizer tokenizer;
  tokenizer.handle_ = std::move(handle);
  return tokenizer;
}

Tokenizer Tokenizer::from_functions(Functions functions) {
  if (!functions.encode || !functions.decode)
    fail(
        ErrorKind::usage,
        "[Tokenizer::from_functions] an empty function; give both");
  Tokenizer tokenizer;
  tokenizer.own_ = std::make_shared<Functions>(std::move(functions));
  return tokenizer;
}

std::optional<Tokenizer> Tokenizer::load(const Checkpoint& checkpoint) {
  if (const Gguf* gguf = checkpoint.gguf()) {
    if (!gguf->metadata().contains("tokenizer.ggml.model")) return std::nullopt;
    return from_gguf(*gguf);
  }
  const ModelFolder folder(checkpoint.path(), "Tokenizer::load");
  const auto read = [&](const char* name) -> std::optional<std::string> {
    if (!folder.has(name)) return std::nullopt;
    return read_text(
        folder.file(name), limits::tokenizer_bytes, "Tokenizer::load");
  };
  const auto parse = [&](std::string_view object, const char* name) {
    json value = parse_json(object, "Tokenizer::load", name);
    if (!value.is_object())
      fail(
          ErrorKind::bad_data,
          "[Tokenizer::load] {} is not a JSON object; download it again",
          name);
    return value;
  };
  const json ids = parse(checkpoint.config(), "config.json");
  const json model_type = ids.value("model_type", json());
  const auto files = read_tokenizer_files(
      checkpoint.path(),
      model_type.is_string() ? model_type.get<std::string>() : "");
  if (!files) return std::nullopt;
  const json& names = files->names;
  auto handle =
      std::make_shared<Handle>(files->tokenizer_json, files->added.dump());
  for (const auto& [token, stated] : files->ids)
    if (const auto id = handle->token_id(token); id != stated)
      fail(
          ErrorKind::bad_data,
          "[Tokenizer::load] the files beside tokenizer.json give '{}' the id "
          "{}, its vocabulary {}; download the tokenizer again",
          printable(token),
          stated,
          id ? std::to_string(*id) : "none");
  // A name, as itself or as an object's "content", goes before config.json's
  // id, which may be a list of which the first counts.
  const auto find = [&](const char* role) -> std::optional<int> {
    json name = names.value(std::string(role) + "_token", json());
    if (name.is_object()) name = name.value("content", json());
    if (name.is_string())
      if (const auto id = handle->token_id(name.get<std::string>())) return id;
    json id = ids.value(std::string(role) + "_token_id", json());
    if (id.is_array() && !id.empty()) id = json(id.front());
    if (!id.is_number_integer()) return std::nullopt;
    const auto value = id.get<int64_t>();
    if (value < 0 || value >= handle->size) return std::nullopt;
    return static_cast<int>(value);
  };
  handle->bos = find("bos");
  handle->eos = find("eos");
  if (handle->eos) handle->add_ends(*handle->eos);
  handle->add_ends(ids.value("eos_token_id", json()));
  if (const auto generation = read("generation_config.json"))
    handle->add_ends(parse(*generation, "generation_config.json")
                         .value("eos_token_id", json()));
  Tokenizer tokenizer;
  tokenizer.handle_ = std::move(handle);
  return tokenizer;
}

Tokenizer::Found Tokenizer::find(const Checkpoint& checkpoint) {
  try {
    return {load(checkpoint), ""};
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::bad_data) throw;
    return {std::nullopt, error.what()};
  }
}

std::vector<int> Tokenizer::encode(
    std::string_view text, const EncodeOptions& options) const {
  if (text.size() > limits::prompt_bytes)
    fail(
        ErrorKind::usage,
        "[Tokenizer::encode] the text has {} bytes, the limit is {}; split it",
        text.size(),
        limits::prompt_bytes);
  if (own_) return own_->encode(text);
  handle_->check_bytes(text);
  tkc_ids ids{};
  check(
      tkc_encode(
          handle_->crate,
          text.data(),
          text.size(),
          options.parse_special,
          options.add_special,
          handle_->byte_ids.data(),
          &ids),
      "Tokenizer::encode",
      "the tokenizer failed on this text");
  const std::unique_ptr<tkc_ids, void (*)(tkc_ids*)> owner(
      &ids, [](tkc_ids* owned) { tkc_free_ids(*owned); });
  std::vector<int> out;
  out.reserve(ids.length);
  for (const uint32_t id : std::span(ids.data, ids.length)) {
    if (id >= static_cast<uint32_t>(handle_->size))
      fail(
          ErrorKind::bad_data,
          "[Tokenizer::encode] the tokenizer gave the id {}, its vocabulary "
          "ends at {}; its tokenizer.json is broken",
          id,
          handle_->size - 1);
    out.push_back(static_cast<int>(id));
  }
  return out;
}

std::string Tokenizer::decode(
    std::span<const int> ids, bool with_special) const {
  if (own_) return own_->decode(ids);
  std::string out;
  std::vector<uint32_t> crate_ids;
  // What the crate makes of the ids that wait for it.
  const auto decoded = [&]() -> std::string {
    if (crate_ids.empty()) return "";
    tkc_text text{};
    check(
        tkc_decode(
            handle_->crate, crate_ids.data(), crate_ids.size(), true, &text),
        "Tokenizer::decode",
        "the tokenizer failed on these ids");
    const std::unique_ptr<tkc_text, void (*)(tkc_text*)> owner(
        &text, [](tkc_text* owned) { tkc_free_text(*owned); });
    crate_ids.clear();
    return {text.data, text.length};
  };
  for (const int id : ids) {
    const auto info = handle_->token(id);
    if (info && info->special && !with_special) continue;
    if (info && handle_->spelling == Spelling::other) {
      crate_ids.push_back(static_cast<uint32_t>(id));
      continue;
    }
    out += decoded();
    out += handle_->shown(id);
  }
  out += decoded();
  if (handle_->strip_space && handle_->spelling != Spelling::other &&
      out.starts_with(' '))
    out.erase(0, 1);
  return out;
}

std::vector<std::string> Tokenizer::labels(std::span<const int> ids) const {
  if (own_) {
    std::vector<std::string> each;
    for (size_t i = 0; i < ids.size(); i++)
      each.push_back(own_->decode(ids.subspan(i, 1)));
    return each;
  }
  std::string text;
  std::vector<size_t> owner;  // the token of each byte
  for (size_t i = 0; i < ids.size(); i++) {
    text += handle_->shown(ids[i]);
    owner.resize(text.size(), i);
  }
  std::vector<std::string> labels(ids.size());
  for (size_t at = 0; at < text.size();) {
    const size_t length = utf8_length(std::string_view(text).substr(at));
    const auto byte = [&](size_t i) {
      return byte_name(static_cast<unsigned char>(text[i]));
    };
    labels[owner[at]] += length ? text.substr(at, length) : byte(at);
    for (size_t i = at + 1; i < at + length; i++)
      if (owner[i] != owner[at]) labels[owner[i]] += byte(i);
    at += std::max<size_t>(length, 1);
  }
  return labels;
}

int Tokenizer::single_token(std::string_view text) const {
  if (!own_)
    if (const auto id = handle_->token_id(text))
      if (handle_->token(*id)->added) return *id;
  // Encoding might put a space in front of a SentencePiece text, so its piece
  // is looked up as it is written.
  const bool pieces = !own_ && handle_->spelling == Spelling::sentence_piece;
  if (pieces) {
    std::string piece;
    for (const char c : text) {
      if (c == ' ')
        piece += lower_one_eighth_block;
      else
        piece += c;
    }
    if (const auto id = handle_->token_id(piece)) return *id;
  }
  const std::vector<int> ids = encode(text, {.add_special = false});
  if (ids.size() == 1 && !pieces) return ids.front();
  constexpr size_t most = 8;
  std::string tokens;
  const std::vector<std::string> names = labels(ids);
  for (size_t i = 0; i < std::min(ids.size(), most); i++)
    tokens += fmt::format(
        "{}{} '{}'", i ? ", " : "", ids[i], printable(names[i], 40));
  if (ids.size() > most) tokens += ", ...";
  fail(
      ErrorKind::unknown_name,
      "[Tokenizer::single_token] '{}' is not one token but {} ({}); choose "
      "another word; a leading space often matters",
      printable(text),
      ids.size(),
      tokens);
}

int Tokenizer::vocab_size() const {
  return own_ ? own_->vocab_size : handle_->size;
}
std::optional<int> Tokenizer::bos() const {
  return own_ ? std::nullopt : handle_->bos;
}
std::optional<int> Tokenizer::eos() const {
  return own_ ? std::nullopt : handle_->eos;
}
std::vector<int> Tokenizer::ends() const {
  return own_ ? std::vector<int>{} : handle_->ends;
}

std::vector<int> Tokenizer::control_tokens() const {
  std::vector<int> ids;
  for (int id = 0; !own_ && id < handle_->size; id++) {
    tkc_token_info info{};
    if (tkc_token(handle_->crate, static_cast<size_t>(id), &info) &&
        info.special)
      ids.push_back(id);
  }
  return ids;
}

}  // namespace mlxterp
