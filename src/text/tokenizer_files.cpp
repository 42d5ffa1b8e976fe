#include "text/tokenizer_files.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <vector>

#include "core/fail.h"
#include "io/json.h"
#include "mlxterp/core/limits.h"
#include "text/chat_templates.h"

namespace mlxterp {

namespace {

using nlohmann::json;

constexpr std::string_view caller = "Tokenizer::load";

std::optional<std::string> read(
    const std::filesystem::path& folder, const char* name) {
  const auto path = folder / name;
  if (!std::filesystem::exists(path)) return std::nullopt;
  return read_text(path, limits::tokenizer_bytes, caller);
}

// An empty one where the file is absent.
json read_object(const std::filesystem::path& folder, const char* name) {
  const auto text = read(folder, name);
  if (!text) return json::object();
  auto value = parse_json(*text, caller, name);
  if (!value.is_object())
    fail(
        ErrorKind::bad_data,
        "[{}] {} is not a JSON object; download it again",
        caller,
        name);
  return value;
}

constexpr std::string_view roles[] = {
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token"};
constexpr std::string_view lists_of_names[] = {
    "additional_special_tokens", "extra_special_tokens"};

/** Collects tokens that may have to be added, each once. */
class AddedTokens {
 public:
  explicit AddedTokens(TokenizerFiles& files) : files_(files) {}

  // A string, or an object as in added_tokens; what is neither says nothing.
  void add(const json& token, bool special_by_default) {
    const auto content = content_of(token);
    if (!content || content->empty() || seen(*content)) return;
    if (content->size() > limits::token_bytes)
      fail(
          ErrorKind::bad_data,
          "[{}] an added token has {} bytes, the limit is {}",
          caller,
          content->size(),
          limits::token_bytes);
    const auto flag = [&](const char* name, bool otherwise) {
      const auto value = token.is_object() ? token.value(name, json()) : json();
      return value.is_boolean() ? value.get<bool>() : otherwise;
    };
    const bool special = flag("special", special_by_default);
    files_.added.push_back(
        {{"content", *content},
         {"single_word", flag("single_word", false)},
         {"lstrip", flag("lstrip", false)},
         {"rstrip", flag("rstrip", false)},
         {"normalized", flag("normalized", !special)},
         {"special", special}});
    names_.insert(*content);
  }

  void give_id(const json& token, int64_t id) {
    if (const auto content = content_of(token)) files_.ids[*content] = id;
  }

  static std::optional<std::string> content_of(const json& token) {
    const auto text =
        token.is_object() ? token.value("content", json()) : token;
    if (!text.is_string()) return std::nullopt;
    return text.get<std::string>();
  }

 private:
  bool seen(const std::string& content) const {
    return names_.contains(content);
  }

  TokenizerFiles& files_;
  std::set<std::string> names_;
};

std::vector<json> special_names(const json& names) {
  std::vector<json> all;
  for (const auto role : roles)
    if (names.contains(role)) all.push_back(names[std::string(role)]);
  for (const auto list : lists_of_names)
    if (names.contains(list))
      for (const auto& name : names[std::string(list)])
        all.push_back(name);
  return all;
}

// {"7": {token}, ...} or {"<x>": 7, ...}, by id.
std::vector<std::pair<int64_t, json>> by_id(
    const json& entries, const char* where) {
  std::vector<std::pair<int64_t, json>> all;
  for (const auto& [key, value] : entries.items()) {
    int64_t id = -1;
    json token = key;
    if (value.is_object()) {
      std::from_chars(key.data(), key.data() + key.size(), id);
      token = value;
    } else if (value.is_number_integer()) {
      id = value.get<int64_t>();
    }
    if (id < 0 || id >= limits::vocab)
      fail(
          ErrorKind::bad_data,
          "[{}] {} gives '{}' no id from 0 to {}; download it again",
          caller,
          where,
          printable(key),
          limits::vocab - 1);
    all.emplace_back(id, std::move(token));
  }
  std::ranges::stable_sort(
      all, {}, [](const auto& entry) { return entry.first; });
  return all;
}

void read_added(TokenizerFiles& files, const std::filesystem::path& folder) {
  AddedTokens added(files);
  const auto decoder = files.names.value("added_tokens_decoder", json());
  if (decoder.is_object()) {
    for (const auto& [id, token] : by_id(decoder, "added_tokens_decoder")) {
      added.add(token, false);
      added.give_id(token, id);
    }
  } else {
    const auto map = read_object(folder, "special_tokens_map.json");
    for (const auto& [role, name] : map.items())
      if (files.names.value(role, json()).empty()) files.names[role] = name;
    std::set<std::string> special;
    for (const auto& name : special_names(files.names))
      if (const auto content = AddedTokens::content_of(name))
        special.insert(*content);
    const auto older = read_object(folder, "added_tokens.json");
    for (const auto& [id, token] : by_id(older, "added_tokens.json")) {
      added.add(token, special.contains(token.get<std::string>()));
      added.give_id(token, id);
    }
  }
  for (const auto& name : special_names(files.names))
    added.add(name, true);
}

// The lines of merges.txt: two tokens with a space between them.
json merges_of(const std::string& text) {
  auto merges = json::array();
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line(text.data() + at, end - at);
    at = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    const size_t space = line.find(' ');
    if (space == line.npos)
      fail(
          ErrorKind::bad_data,
          "[{}] merges.txt has the line '{}', not two tokens with a space "
          "between them",
          caller,
          printable(line));
    merges.push_back(
        {std::string(line.substr(0, space)),
         std::string(line.substr(space + 1))});
  }
  return merges;
}

json byte_level(bool add_prefix_space, bool use_regex) {
  return {
      {"type", "ByteLevel"},
      {"add_prefix_space", add_prefix_space},
      {"trim_offsets", false},
      {"use_regex", use_regex}};
}

// Qwen2's words; what lies between two is a word as well.
constexpr const char* qwen2_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// The tokenizer.json that transformers would make of these two.
std::string from_vocabulary(
    TokenizerFiles& files,
    std::string_view model_type,
    const std::string& vocabulary,
    const std::string& merges) {
  auto type = files.names.value("tokenizer_class", json());
  auto name = type.is_string() ? type.get<std::string>() : "";
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  if (name.empty())
    name = model_type.starts_with("qwen") ? "Qwen2Tokenizer" : "GPT2Tokenizer";
  const bool qwen = name == "Qwen2Tokenizer";
  if (!qwen && name != "GPT2Tokenizer" && name != "CodeGenTokenizer")
    fail(
        ErrorKind::bad_data,
        "[{}] the folder has vocab.json and merges.txt of a {}, and no "
        "tokenizer.json; without one GPT2Tokenizer and Qwen2Tokenizer are "
        "read; save the tokenizer again with a newer transformers",
        caller,
        printable(name));
  // Not parse_json: its keys are 50,000, and only looked up.
  const json ids = json::parse(vocabulary, nullptr, false);
  if (!ids.is_object())
    fail(
        ErrorKind::bad_data,
        "[{}] vocab.json is not a JSON object; download it again",
        caller);
  for (const char* role : {"bos_token", "eos_token", "unk_token"})
    if (!files.names.contains(role) && ids.contains("<|endoftext|>") &&
        !(qwen && role == std::string_view("bos_token")))
      files.names[role] = "<|endoftext|>";

  const bool prefix = files.names.value("add_prefix_space", json()) == true;
  json file = {
      {"version", "1.0"},
      {"added_tokens", json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", byte_level(prefix, true)},
      {"post_processor", byte_level(true, true)},
      {"decoder", byte_level(true, true)},
      {"model", {{"type", "BPE"}, {"merges", merges_of(merges)}}}};
  if (qwen) {
    file["normalizer"] = {{"type", "NFC"}};
    file["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"},
           {"pattern", {{"Regex", qwen2_words}}},
           {"behavior", "Isolated"},
           {"invert", false}},
          byte_level(false, false)}}};
  }
  const auto bos =
      AddedTokens::content_of(files.names.value("bos_token", json()));
  if (files.names.value("add_bos_token", json()) == true && bos &&
      ids.contains(*bos)) {
    const json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
    const json first = {{"SpecialToken", {{"id", *bos}, {"type_id", 0}}}};
    file["post_processor"] = {
        {"type", "TemplateProcessing"},
        {"single", {first, text}},
        {"pair", {first, text, {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}}},
        {"special_tokens",
         {{*bos, {{"id", *bos}, {"ids", {ids[*bos]}}, {"tokens", {*bos}}}}}}};
  }
  file["model"]["vocab"] = ids;
  return file.dump();
}

}  // namespace

std::optional<TokenizerFiles> read_tokenizer_files(
    const std::filesystem::path& folder, std::string_view model_type) {
  TokenizerFiles files;
  auto text = read(folder, "tokenizer.json");
  std::optional<std::string> vocabulary, merges;
  if (!text) {
    vocabulary = read(folder, "vocab.json");
    merges = read(folder, "merges.txt");
    if (!vocabulary || !merges) return std::nullopt;
  }
  files.names = read_object(folder, "tokenizer_config.json");
  files.tokenizer_json =
      text ? std::move(*text)
           : from_vocabulary(files, model_type, *vocabulary, *merges);
  read_added(files, folder);
  files.chat_templates = read_chat_templates(folder, files.names);
  return files;
}

}  // namespace mlxterp
