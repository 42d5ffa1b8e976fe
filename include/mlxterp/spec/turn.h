// mlxterp/spec/turn.h: turns of a conversation, as they are written in text.

#pragma once

#include <string_view>
#include <vector>

#include "mlxterp/text/chat.h"

namespace mlxterp::spec {

/**
 * The positions of a message's content:
 *
 *     turn = "@" role [":" number]
 *
 * "@user:0" is the first message of that role, "@user:-1" and "@user" the last.
 * Tokens that hold a part of it count. Throws usage, unknown_name where there
 * is no such turn, and usage where its content was not found.
 */
std::vector<int> positions_of_turn(
    const ChatPrompt& chat,
    std::string_view text,
    std::string_view name = "turn");

}  // namespace mlxterp::spec
