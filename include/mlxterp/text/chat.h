// mlxterp/text/chat.h: conversations, and what a chat template makes of one.

#pragma once

#include <cstddef>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mlxterp {

struct ChatMessage {
  std::string role;
  std::string content;
  /** A JSON object with what else the template reads, such as
   * {"tool_calls": [...]}; empty: nothing. A "content" in it replaces
   * `content`: null, or a list of parts. */
  std::string more;
};

struct ChatOptions {
  /** Begin the assistant's turn at the end. */
  bool add_generation_prompt = false;
  /** End the text where the last message's content ends, to be gone on with. */
  bool continue_final_message = false;
  /** Read control tokens in contents as themselves, as transformers does. Off:
   * only those that the template wrote control. */
  bool parse_special = false;
  /** Tell which tokens the template marks as the assistant's
   * ({% generation %}). */
  bool assistant_mask = false;
  /** JSON: the list of tools and of documents, and an object of further
   * variables, such as {"enable_thinking": false}; empty: none. */
  std::string tools;
  std::string documents;
  std::string variables;
  /** The name of one of the model's templates, or the source of another. Empty:
   * "tool_use" where there are tools and the model has it, else "default". */
  std::string chat_template;
  /** The local time that strftime_now tells; absent: the clock's. */
  std::optional<std::tm> now;
};

/** Tokens from `begin` to `end`, exclusive. */
struct TokenSpan {
  int begin = 0;
  int end = 0;
  /** The first or last of them begins before, or ends behind, the text meant.
   */
  bool shares_first = false;
  bool shares_last = false;

  int size() const { return end - begin; }
  bool operator==(const TokenSpan&) const = default;
};

/** Where a message's content is in the text. */
enum class ContentFound {
  whole,     ///< All of it, but for white space around it, as it was given.
  part,      ///< Some of it: the template cut it, or wrote it in pieces.
  compared,  ///< The template changes what it is given; found by its text.
  lost,      ///< Nowhere that is certain, or not written at all.
  none,      ///< It has no text.
};

/** A name: "whole". */
std::string_view name_of(ContentFound found);

struct ChatTurn {
  std::string role;
  int index = 0;  ///< Of the message in the conversation.
  /** With the template's own text and control tokens around it. Those of all
   * turns are apart and in order; what the template writes before the first
   * message, such as a BOS token, belongs to none. */
  TokenSpan message;
  /** Absent where there is none to be found. */
  std::optional<TokenSpan> content;
  ContentFound found = ContentFound::none;
};

struct ChatPrompt {
  std::vector<int> ids;
  std::string text;  ///< UTF-8, as the template rendered it.
  std::vector<ChatTurn> turns;
  /** What add_generation_prompt wrote; empty without it. */
  TokenSpan generation_prompt;
  /** With ChatOptions::assistant_mask 1 for each token that a {% generation %}
   * of the template wrote, 0 for others, as transformers'
   * return_assistant_tokens_mask has it; else empty. */
  std::vector<int> assistant_mask;

  /** The turn of that role, counted from 0, or from the end by -1 and below.
   * Throws unknown_name with the roles that are there. */
  const ChatTurn& turn(std::string_view role, int number) const;
};

}  // namespace mlxterp
