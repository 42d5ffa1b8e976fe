#include "text/chat_templates.h"

#include <optional>
#include <variant>

#include "core/fail.h"
#include "io/json.h"
#include "io/model_folder.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

using nlohmann::json;
using Templates = std::map<std::string, std::string>;

constexpr std::string_view caller = "Tokenizer::load";

[[noreturn]] void fail_config() {
  fail(
      ErrorKind::bad_data,
      "[{}] chat_template in tokenizer_config.json is neither a text nor a "
      "list "
      "of objects with a name and a template; download it again",
      caller);
}

Templates of_config(const json& config) {
  Templates templates;
  const auto entry = config.find("chat_template");
  if (entry == config.end() || entry->is_null()) return templates;
  if (entry->is_string()) {
    templates["default"] = entry->get<std::string>();
    return templates;
  }
  if (entry->is_object()) {
    for (const auto& [name, source] : entry->items()) {
      if (!source.is_string()) fail_config();
      templates[name] = source.get<std::string>();
    }
    return templates;
  }
  if (!entry->is_array()) fail_config();
  for (const auto& each : *entry) {
    if (!each.is_object()) fail_config();
    const json name = each.value("name", json());
    const json source = each.value("template", json());
    if (!name.is_string() || !source.is_string()) fail_config();
    templates[name.get<std::string>()] = source.get<std::string>();
  }
  return templates;
}

}  // namespace

Templates read_chat_templates(
    const std::filesystem::path& folder, const json& config) {
  Templates templates;
  const auto read = [](const std::filesystem::path& path) {
    return read_text(path, limits::chat_template_bytes, caller);
  };
  const ModelFolder files(folder, caller);
  if (files.has("chat_template.jinja"))
    templates["default"] = read(files.file("chat_template.jinja"));
  const std::string more = "additional_chat_templates";
  if (files.has(more) && std::filesystem::is_directory(folder / more)) {
    const ModelFolder others(files.file(more), caller);
    for (const auto& name : others.names()) {
      const std::filesystem::path file(name);
      if (file.extension() != ".jinja") continue;
      if (templates.size() >= limits::chat_templates)
        fail(
            ErrorKind::bad_data,
            "[{}] additional_chat_templates has more than {} templates",
            caller,
            limits::chat_templates);
      // A hub's snapshot links to blobs, which only the folder above knows.
      const bool link = std::filesystem::is_symlink(folder / more / name);
      templates[file.stem().string()] =
          read(link ? files.file(more + "/" + name) : others.file(name));
    }
  }
  return templates.empty() ? of_config(config) : templates;
}

Templates gguf_chat_templates(
    const std::map<std::string, GgufValue>& metadata) {
  constexpr std::string_view key = "tokenizer.chat_template";
  Templates templates;
  for (auto entry = metadata.lower_bound(std::string(key));
       entry != metadata.end() && entry->first.starts_with(key);
       ++entry) {
    const auto* source = std::get_if<std::string>(&entry->second);
    if (!source) continue;
    if (entry->first.size() == key.size())
      templates["default"] = *source;
    else if (entry->first[key.size()] == '.')
      templates[entry->first.substr(key.size() + 1)] = *source;
  }
  return templates;
}

std::map<std::string, std::string> special_names_of(const json& config) {
  std::map<std::string, std::string> names;
  const auto add = [&](const std::string& role, const json& token) {
    const json text =
        token.is_object() ? token.value("content", json()) : token;
    if (text.is_string()) names[role] = text.get<std::string>();
  };
  for (const char* role :
       {"bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token"})
    if (config.contains(role)) add(role, config[role]);
  // Named ones, such as an image's.
  const json more = config.value("extra_special_tokens", json());
  if (more.is_object())
    for (const auto& [role, token] : more.items())
      add(role, token);
  return names;
}

}  // namespace mlxterp
