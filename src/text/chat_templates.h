// text/chat_templates.h: where a model's chat templates are.

#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "mlxterp/io/gguf.h"

namespace mlxterp {

/** By name; empty where there are none. `config`: tokenizer_config.json. Throws
 * bad_data. */
std::map<std::string, std::string> read_chat_templates(
    const std::filesystem::path& folder, const nlohmann::json& config);

/** tokenizer.chat_template and tokenizer.chat_template.NAME. */
std::map<std::string, std::string> gguf_chat_templates(
    const std::map<std::string, GgufValue>& metadata);

/** What a template sees of the special tokens, "bos_token" and the like, as
 * transformers hands them over. */
std::map<std::string, std::string> special_names_of(
    const nlohmann::json& config);

}  // namespace mlxterp
