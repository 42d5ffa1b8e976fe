#include "mlxterp/spec/turn.h"

#include <numeric>

#include "spec/text.h"

namespace mlxterp::spec {

std::vector<int> positions_of_turn(
    const ChatPrompt& chat, std::string_view given, std::string_view name) {
  const auto text = trimmed(given);
  const auto colon = text.find(':');
  const auto role = text.substr(0, colon);
  const auto number = colon == text.npos
                          ? std::optional(-1)
                          : whole_number<int>(text.substr(colon + 1));
  if (role.size() < 2 || role[0] != '@' || !number)
    fail(
        ErrorKind::usage,
        "{} '{}' is no turn, such as @user:-1 or @assistant:0",
        name,
        printable(std::string(text)));
  const auto& turn = chat.turn(role.substr(1), *number);
  if (!turn.content)
    fail(
        ErrorKind::usage,
        "{} '{}': where its content stands is not known ({}); give positions",
        name,
        printable(std::string(text)),
        name_of(turn.found));
  std::vector<int> positions(static_cast<size_t>(turn.content->size()));
  std::iota(positions.begin(), positions.end(), turn.content->begin);
  return positions;
}

}  // namespace mlxterp::spec
