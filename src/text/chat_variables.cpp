#include "text/chat_variables.h"

#include <utility>

#include "core/fail.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

constexpr std::string_view caller = "Tokenizer::apply_chat_template";

// transformers puts it behind the content that is gone on with.
constexpr std::string_view tag = "CONTINUE_FINAL_MESSAGE_TAG ";

void check_messages(const ChatJson& messages) {
  if (!messages.is_array())
    fail(
        ErrorKind::usage,
        "[{}] the messages are no JSON list but a {}",
        caller,
        messages.type_name());
  if (messages.size() > limits::chat_messages)
    fail(
        ErrorKind::usage,
        "[{}] {} messages, the limit is {}",
        caller,
        messages.size(),
        limits::chat_messages);
  for (size_t i = 0; i < messages.size(); i++)
    if (!messages[i].is_object())
      fail(
          ErrorKind::usage,
          "[{}] message {} is a {}, not an object with a role and a content",
          caller,
          i,
          messages[i].type_name());
  for (size_t i = 0; i < messages.size(); i++) {
    const auto role = messages[i].find("role");
    if (role == messages[i].end() || !role->is_string())
      fail(
          ErrorKind::usage,
          "[{}] message {} has no role; give one, such as user or assistant",
          caller,
          i);
  }
}

// As transformers does: a template that reads another of the three names of a
// model's reasoning finds it there, too.
ChatJson with_reasoning(const ChatJson& message) {
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const auto found = message.find(name);
    if (found == message.end() || found->is_null()) continue;
    const ChatJson reasoning = *found;
    ChatJson out;
    out["thinking"] = reasoning;
    for (const auto& [key, value] : message.items())
      out[key] = value;
    out["reasoning_content"] = reasoning;
    return out;
  }
  return message;
}

// The last message's content, or the text of its last part.
std::string* last_text(ChatJson& variables) {
  auto& messages = variables["messages"];
  if (messages.empty()) return nullptr;
  auto& message = messages.back();
  if (!message.contains("content")) return nullptr;
  auto& content = message["content"];
  if (content.is_string()) return content.get_ptr<std::string*>();
  if (!content.is_array()) return nullptr;
  for (auto part = content.rbegin(); part != content.rend(); ++part)
    if (part->is_object() && part->contains("text") &&
        (*part)["text"].is_string())
      return (*part)["text"].get_ptr<std::string*>();
  return nullptr;
}

std::string stripped(std::string text, bool left) {
  constexpr const char* space = " \t\n\v\f\r\x1c\x1d\x1e\x1f";
  text.erase(text.find_last_not_of(space) + 1);
  if (left) text.erase(0, text.find_first_not_of(space));
  return text;
}

}  // namespace

// A template by its name or of its own text, and the name for messages.
const std::string& chat_source(
    const std::map<std::string, std::string>& templates,
    const ChatOptions& options) {
  if (!options.chat_template.empty()) {
    const auto named = templates.find(options.chat_template);
    if (named != templates.end()) return named->second;
    // A name has no tags and no lines.
    if (options.chat_template.find_first_of("{\n") != std::string::npos)
      return options.chat_template;
  }
  std::string names;
  for (const auto& [name, source] : templates)
    names += (names.empty() ? "" : ", ") + printable(name);
  if (templates.empty())
    fail(
        ErrorKind::usage,
        "[{}] the model has no chat template (chat_template.jinja, or "
        "chat_template in tokenizer_config.json or the GGUF); it may be a base "
        "model; give one as chat_template",
        caller);
  if (!options.chat_template.empty())
    fail(
        ErrorKind::unknown_name,
        "[{}] the model has no chat template '{}', it has: {}; give a name or "
        "the text of a template",
        caller,
        printable(options.chat_template),
        names);
  if (!options.tools.empty() && templates.contains("tool_use"))
    return templates.at("tool_use");
  if (templates.contains("default")) return templates.at("default");
  fail(
      ErrorKind::usage,
      "[{}] the model has several chat templates and none is called default: "
      "{}; name one as chat_template",
      caller,
      names);
}

ChatJson chat_messages(const std::vector<ChatMessage>& messages) {
  auto list = ChatJson::array();
  for (const auto& message : messages) {
    ChatJson object;
    object["role"] = message.role;
    object["content"] = message.content;
    if (!message.more.empty()) {
      const auto more = parse_chat_json(message.more, "fields of a message");
      if (!more.is_object())
        fail(
            ErrorKind::usage,
            "[{}] `more` of message {} is not a JSON object",
            caller,
            list.size());
      for (const auto& [key, value] : more.items())
        object[key] = value;
    }
    list.push_back(std::move(object));
  }
  return list;
}

// What the template sees, in transformers' order of precedence.
ChatJson chat_variables(
    const ChatJson& messages,
    const std::map<std::string, std::string>& special_names,
    const ChatOptions& options) {
  check_messages(messages);
  ChatJson variables;
  for (const auto& [name, token] : special_names)
    variables[name] = token;
  if (!options.variables.empty()) {
    const auto more = parse_chat_json(options.variables, "variables");
    if (!more.is_object())
      fail(
          ErrorKind::usage,
          "[{}] the variables are no JSON object but a {}",
          caller,
          more.type_name());
    for (const auto& [name, value] : more.items())
      variables[name] = value;
  }
  const auto list = [&](const std::string& json, const char* what) {
    if (json.empty()) return ChatJson();
    auto value = parse_chat_json(json, what);
    if (!value.is_array() && !value.is_null())
      fail(
          ErrorKind::usage,
          "[{}] the {} are no JSON list but a {}",
          caller,
          what,
          value.type_name());
    return value;
  };
  // They are there, if only as none.
  if (!options.tools.empty() || !variables.contains("tools"))
    variables["tools"] = list(options.tools, "tools");
  if (!options.documents.empty() || !variables.contains("documents"))
    variables["documents"] = list(options.documents, "documents");
  variables["add_generation_prompt"] = options.add_generation_prompt;
  variables["messages"] = ChatJson::array();
  for (const auto& message : messages)
    variables["messages"].push_back(with_reasoning(message));
  return variables;
}

/** Cut where the last content ends, as transformers cuts. */
std::string continued(
    const std::function<std::string(const ChatJson&)>& render,
    ChatJson variables) {
  std::string* last = last_text(variables);
  if (!last)
    fail(
        ErrorKind::usage,
        "[{}] continue_final_message, but the last message has no text to go "
        "on "
        "with",
        caller);
  const std::string given = stripped(*last, true);
  *last += tag;
  std::string text = render(variables);
  const auto bare = tag.substr(0, tag.size() - 1);
  const size_t at = text.rfind(bare);
  if (at == text.npos || text.find(given) == text.npos)
    fail(
        ErrorKind::usage,
        "[{}] continue_final_message, but the template does not write the last "
        "message's content as it is",
        caller);
  const bool kept = std::string_view(text).substr(at).starts_with(tag);
  text.erase(at);
  return kept ? text : stripped(std::move(text), false);
}

}  // namespace mlxterp
