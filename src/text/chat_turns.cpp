#include "text/chat_turns.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

ChatJson first_messages(const ChatJson& variables, size_t count) {
  ChatJson out = variables;
  auto& messages = out["messages"];
  messages.erase(
      messages.begin() + static_cast<int64_t>(count), messages.end());
  out["add_generation_prompt"] = false;
  return out;
}

// How often that very mark stands before position `i` of the list.
size_t repeat_of(const std::vector<ChatMark>& marks, size_t i) {
  return static_cast<size_t>(std::count_if(
      marks.begin(),
      marks.begin() + static_cast<int64_t>(i),
      [&](const ChatMark& mark) {
        return mark.leaf == marks[i].leaf && mark.offset == marks[i].offset;
      }));
}

// Where the whole text has the same mark for that time.
std::optional<size_t> place_of(
    const std::vector<ChatMark>& marks, const ChatMark& mark, size_t repeat) {
  for (const auto& each : marks)
    if (each.leaf == mark.leaf && each.offset == mark.offset && repeat-- == 0)
      return each.at;
  return std::nullopt;
}

size_t common(std::string_view a, std::string_view b) {
  const size_t most = std::min(a.size(), b.size());
  size_t i = 0;
  while (i < most && a[i] == b[i])
    i++;
  return i;
}

class Bounds {
 public:
  explicit Bounds(ChatLocator& locator)
      : locator_(locator),
        messages_(locator.variables()["messages"].size()),
        content_(messages_) {
    for (const auto& leaf : locator.leaves()) {
      if (!leaf.is_content || leaf.pieces.empty()) continue;
      auto& content = content_[static_cast<size_t>(leaf.message)];
      const ByteRange range{leaf.pieces.front().begin, leaf.pieces.back().end};
      if (content)
        content = ByteRange{
            std::min(content->begin, range.begin),
            std::max(content->end, range.end)};
      else
        content = range;
    }
  }

  std::optional<size_t> content_begin(size_t i) const {
    return content_[i] ? std::optional(content_[i]->begin) : std::nullopt;
  }

  // Of message i, where it can be known.
  std::optional<size_t> end(size_t i) {
    const bool next = i + 1 < messages_ && content_[i] && content_[i + 1] &&
                      content_[i + 1]->begin >= content_[i]->end;
    // Between two contents the same text falls to the two in the same way.
    const auto& text = locator_.text();
    const auto gap =
        next ? std::tuple(
                   role(i),
                   role(i + 1),
                   text.substr(
                       content_[i]->end,
                       content_[i + 1]->begin - content_[i]->end))
             : std::tuple(std::string(), std::string(), std::string());
    if (next)
      if (const auto seen = footers_.find(gap); seen != footers_.end())
        return content_[i]->end + seen->second;
    auto found = rendered_end(i);
    if (!found && content_[i]) found = content_[i]->end;
    if (next && found && *found >= content_[i]->end)
      footers_[gap] = *found - content_[i]->end;
    return found;
  }

  std::string role(size_t i) const {
    const auto& message = locator_.variables()["messages"][i];
    const auto role = message.find("role");
    return role != message.end() && role->is_string() ? role->get<std::string>()
                                                      : "";
  }

 private:
  std::optional<size_t> rendered_end(size_t i) {
    const auto part = locator_.marked(
        first_messages(locator_.variables(), i + 1), static_cast<int>(i) + 1);
    if (!part) return std::nullopt;
    size_t from = 0;  // in the part
    size_t at = 0;    // in the whole
    for (size_t mark = part->marks.size(); mark-- > 0;) {
      const auto place = place_of(
          locator_.marks(), part->marks[mark], repeat_of(part->marks, mark));
      if (!place) continue;
      from = part->marks[mark].at;
      at = *place;
      break;
    }
    // What follows the content of a later message is none of this one's.
    for (size_t j = i + 1; j < messages_; j++)
      if (content_[j] && content_[j]->end <= at) return std::nullopt;
    const std::string_view tail = std::string_view(part->text).substr(from);
    return at + common(std::string_view(locator_.text()).substr(at), tail);
  }

  ChatLocator& locator_;
  size_t messages_;
  std::vector<std::optional<ByteRange>> content_;
  std::map<std::tuple<std::string, std::string, std::string>, size_t> footers_;
};

// Of the text that stands before the content of a message like the first when
// it is not the first; nothing where the template does not take two of them.
std::optional<std::string> header_of_second(ChatLocator& locator) {
  ChatJson variables = first_messages(locator.variables(), 1);
  const auto alone = locator.marked(variables, 1);
  if (!alone || alone->marks.empty()) return std::nullopt;
  // The copy bears no marks, so the last of them is where the first one ends.
  variables["messages"].push_back(variables["messages"][0]);
  const auto twice = locator.marked(variables, 1);
  if (!twice || twice->marks.empty()) return std::nullopt;
  const auto& content =
      locator.variables()["messages"][0].value("content", ChatJson());
  if (!content.is_string()) return std::nullopt;
  const auto given = content.get<std::string>();
  const size_t start = given.find_first_not_of(" \t\r\n");
  if (start == given.npos) return std::nullopt;
  const std::string core =
      given.substr(start, given.find_last_not_of(" \t\r\n") + 1 - start);
  const size_t end = alone->marks.back().at;
  const std::string_view footer = std::string_view(alone->text).substr(end);
  const size_t first_end = twice->marks.back().at;
  const std::string_view rest = std::string_view(twice->text).substr(first_end);
  if (!rest.starts_with(footer)) return std::nullopt;
  const size_t second = rest.find(core, footer.size());
  if (second == rest.npos) return std::nullopt;
  return std::string(rest.substr(footer.size(), second - footer.size()));
}

}  // namespace

ChatBounds chat_bounds(ChatLocator& locator, const std::string& bos) {
  const std::string& text = locator.text();
  const size_t count = locator.variables()["messages"].size();
  ChatBounds out;
  if (count == 0) return out;
  Bounds bounds(locator);
  if (!bos.empty() && text.starts_with(bos)) out.begin = bos.size();
  if (const auto content = bounds.content_begin(0)) {
    const auto header = header_of_second(locator);
    const std::string_view before = std::string_view(text).substr(0, *content);
    if (header && !header->empty() && before.ends_with(*header))
      out.begin = *content - header->size();
  }
  size_t last = out.begin;
  for (size_t i = 0; i < count; i++) {
    last = std::max(last, bounds.end(i).value_or(last));
    out.ends.push_back(std::min(last, text.size()));
  }
  return out;
}

}  // namespace mlxterp
