// text/chat_variables.h: what a chat template sees, as transformers hands it
// over.

#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "mlxterp/text/chat.h"
#include "text/chat_render.h"

namespace mlxterp {

/** The source of the template that is asked for. Throws usage or unknown_name
 * with the names that there are. */
const std::string& chat_source(
    const std::map<std::string, std::string>& templates,
    const ChatOptions& options);

/** Messages as a JSON list. Throws usage for `more` that is no object. */
ChatJson chat_messages(const std::vector<ChatMessage>& messages);

/** All variables. Throws usage for what is no list of messages, tools or
 * documents, or no object of variables. */
ChatJson chat_variables(
    const ChatJson& messages,
    const std::map<std::string, std::string>& special_names,
    const ChatOptions& options);

/** The text up to the end of the last content. Throws usage where that is not
 * to be found. */
std::string continued(
    const std::function<std::string(const ChatJson&)>& render,
    ChatJson variables);

}  // namespace mlxterp
