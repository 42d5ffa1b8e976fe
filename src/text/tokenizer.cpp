#include "mlxterp/text/tokenizer.h"

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
#include "text/chat_templates.h"
#include "text/gguf_vocabulary.h"
#include "text/tokenizer_files.h"
#include "text/tokenizer_handle.h"

namespace mlxterp {

namespace {

using nlohmann::json;

}  // namespace

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
  handle->chat_templates = gguf_chat_templates(metadata);
  for (const char* role : {"bos", "eos", "unknown", "padding"}) {
    const auto id =
        metadata.find(fmt::format("tokenizer.ggml.{}_token_id", role));
    if (id == metadata.end() || !std::holds_alternative<int64_t>(id->second))
      continue;
    const auto value = std::get<int64_t>(id->second);
    if (value < 0 || value >= handle->size) continue;
    const std::string_view name(role);
    const auto key = name == "unknown"   ? "unk"
                     : name == "padding" ? "pad"
                                         : name;
    handle->special_names[fmt::format("{}_token", key)] =
        handle->shown(static_cast<int>(value));
  }
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
  handle->chat_templates = files->chat_templates;
  handle->special_names = special_names_of(names);
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
  check_crate(
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
    check_crate(
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
