// text/tokenizer_files.h: what a Hugging Face folder says of its tokenizer.

#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace mlxterp {

struct TokenizerFiles {
  std::string tokenizer_json;
  /** Tokens that stand only beside it, in the order in which they are added, as
   * in its added_tokens but without ids. */
  nlohmann::json added = nlohmann::json::array();
  /** The ids that the files give some of them. */
  std::map<std::string, int64_t> ids;
  /** bos_token, eos_token and the like: a string, or an object with it as
   * "content". */
  nlohmann::json names = nlohmann::json::object();
  /** By name. */
  std::map<std::string, std::string> chat_templates;
};

/** Reads them as transformers does: tokenizer.json, or where there is none
 * vocab.json and merges.txt of a GPT-2 or Qwen2 tokenizer; the tokens that
 * tokenizer_config.json adds in added_tokens_decoder, or, where it says nothing
 * of them, added_tokens.json and special_tokens_map.json; then the special
 * tokens that have a role. None where there is neither of the first two.
 * Chat templates are chat_template.jinja and the files in
 * additional_chat_templates, or, where there are none, the "chat_template" of
 * tokenizer_config.json: one, or a list of named ones. Throws bad_data. */
std::optional<TokenizerFiles> read_tokenizer_files(
    const std::filesystem::path& folder, std::string_view model_type);

}  // namespace mlxterp
