// text/chat_marks.h: where the strings of a conversation are in the text that a
// template makes of it. Private characters, put into the strings and taken out
// of the text again, tell; they count only where the text is the same without
// them.

#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/text/chat.h"
#include "text/chat_render.h"

namespace mlxterp {

/** Bytes of a text, `end` exclusive. */
struct ByteRange {
  size_t begin = 0;
  size_t end = 0;
  bool operator==(const ByteRange&) const = default;
};

/** One string of the template's variables. */
struct ChatLeaf {
  ChatJson::json_pointer where;
  std::string text;
  int message = -1;         ///< The one it is in; -1: none.
  bool is_content = false;  ///< The message's content, or the text of a part.
  bool controls = false;    ///< Names a control token.

  /** Filled in by locate(). */
  std::vector<ByteRange> pieces;   ///< In the rendered text, in order.
  std::vector<ByteRange> written;  ///< What of `text` is known to be there.
  ContentFound found = ContentFound::lost;
  /** Whether it has been seen that it is nowhere else. */
  bool certain = false;
};

/** A mark as it was found: byte `offset` of a leaf's text is at byte `at`. */
struct ChatMark {
  size_t at = 0;
  size_t leaf = 0;
  size_t offset = 0;
};

struct MarkedText {
  std::string text;  ///< Without the marks.
  std::vector<ChatMark> marks;
};

/** Renders one conversation, whole and in parts, within limits of its own. */
class ChatLocator {
 public:
  using Render = std::function<std::string(const ChatJson& variables)>;
  /** The names of control tokens in a text, in order. */
  using Controls = std::function<std::vector<ByteRange>(std::string_view text)>;

  ChatLocator(
      Render render,
      const Controls& controls,
      ChatJson variables,
      std::vector<ChatLeaf> leaves);

  const std::string& text() const { return text_; }
  const std::vector<ChatLeaf>& leaves() const { return leaves_; }
  const ChatJson& variables() const { return variables_; }

  /** Other variables with marks in the leaves that bear them, those of
   * `messages` messages; nothing where that fails or the limits are reached. */
  std::optional<MarkedText> marked(ChatJson variables, int messages);
  /** The marks that marked() puts, where the whole text has them. */
  const std::vector<ChatMark>& marks() const { return marks_; }

 private:
  enum class Places { none, edges, words };

  void locate(const Controls& controls);
  void settle(const std::vector<size_t>& leaves, Places places);
  void read_edges(ChatLeaf& leaf, const std::vector<ChatMark>& marks);
  void read_words(ChatLeaf& leaf, const std::vector<ChatMark>& marks);
  void compare(ChatLeaf& leaf);
  bool may_render();

  Render render_;
  ChatJson variables_;
  std::vector<ChatLeaf> leaves_;
  std::vector<Places> places_;  // of each leaf that bears marks
  std::string text_;
  std::vector<ChatMark> marks_;
  bool usable_ = true;  // the conversation has none of the marks' characters
  int renderings_ = 0;
  size_t rendered_ = 0;
};

}  // namespace mlxterp
