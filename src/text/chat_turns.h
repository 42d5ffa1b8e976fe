// text/chat_turns.h: where each message of a conversation ends in its text.

#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "text/chat_marks.h"

namespace mlxterp {

struct ChatBounds {
  size_t begin = 0;          ///< Of the first message.
  std::vector<size_t> ends;  ///< Of each; none lies before the one before it.
};

/** A message ends where the text of the conversation up to it, rendered alone,
 * ends behind the last content that both have; where there the template goes on
 * in another way, as far as both agree; and where it refuses such a part, with
 * its content. The first begins behind what a second one of its kind lacks, or
 * else behind `bos`. */
ChatBounds chat_bounds(ChatLocator& locator, const std::string& bos);

}  // namespace mlxterp
