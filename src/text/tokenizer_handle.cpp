#include "text/tokenizer_handle.h"

#include <algorithm>

#include "core/fail.h"
#include "core/utf8.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

using nlohmann::json;

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

}  // namespace

std::string byte_name(unsigned char byte) {
  return fmt::format("<0x{:02X}>", byte);
}

void check_crate(
    char* message,
    std::string_view function,
    std::string_view what,
    std::string_view advice) {
  if (!message) return;
  const std::string text = printable(message, 300);
  tkc_free_message(message);
  fail(ErrorKind::bad_data, "[{}] {} ({}); {}", function, what, text, advice);
}

Tokenizer::Handle::Handle(std::string_view text, const std::string& added) {
  if (text.size() > limits::tokenizer_bytes)
    fail(
        ErrorKind::bad_data,
        "[Tokenizer::from_json] the text has {} bytes, the limit is {}; is "
        "it a tokenizer.json?",
        text.size(),
        limits::tokenizer_bytes);
  check_crate(
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

void Tokenizer::Handle::read_spelling() {
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

int32_t Tokenizer::Handle::byte_id(int byte) const {
  static const auto alphabet = byte_alphabet();
  if (spelling == Spelling::other) return -1;
  const auto id = token_id(
      spelling == Spelling::byte_level
          ? utf8(alphabet[byte])
          : byte_name(static_cast<unsigned char>(byte)));
  return id && !token(*id)->added ? *id : -1;
}

std::optional<int> Tokenizer::Handle::token_id(std::string_view text) const {
  int64_t id = -1;
  check_crate(
      tkc_token_id(crate, text.data(), text.size(), &id),
      "Tokenizer",
      "looking a token up failed");
  return id < 0 ? std::nullopt : std::optional(static_cast<int>(id));
}

std::optional<tkc_token_info> Tokenizer::Handle::token(int id) const {
  tkc_token_info info{};
  if (id < 0 || !tkc_token(crate, static_cast<size_t>(id), &info))
    return std::nullopt;
  return info;
}

std::string Tokenizer::Handle::shown(int id) const {
  const auto info = token(id);
  return info ? bytes(*info) : fmt::format("<id {}>", id);
}

std::string Tokenizer::Handle::bytes(const tkc_token_info& info) const {
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

void Tokenizer::Handle::check_bytes(std::string_view text) const {
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

void Tokenizer::Handle::add_ends(const json& ids) {
  for (const json& id : ids.is_array() ? ids : json::array({ids})) {
    if (!id.is_number_integer()) continue;
    const auto value = id.get<int64_t>();
    if (value < 0 || value >= size || std::ranges::count(ends, value)) continue;
    ends.push_back(static_cast<int>(value));
  }
}

}  // namespace mlxterp
