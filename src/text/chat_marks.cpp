#include "text/chat_marks.h"

#include <algorithm>
#include <utility>

#include "core/utf8.h"
#include "mlxterp/core/error.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

// A mark is U+10FF00 and four digits of base 4096, U+10E000 and up: two of the
// leaf, two of the offset. Each takes four bytes.
constexpr char32_t mark_begin = 0x10FF00;
constexpr char32_t mark_digit = 0x10E000;
constexpr size_t digit_base = 4096;
constexpr size_t mark_bytes = 5 * 4;
constexpr size_t most_words = 256;  // marked in one leaf

void append(std::string& out, char32_t c) {
  out += static_cast<char>(0xF0 | (c >> 18));
  out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
  out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
  out += static_cast<char>(0x80 | (c & 0x3F));
}

char32_t four_bytes(std::string_view text) {
  const auto byte = [&](size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[i]));
  };
  return (byte(0) & 0x07) << 18 | (byte(1) & 0x3F) << 12 |
         (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
}

std::string mark(size_t leaf, size_t offset) {
  std::string out;
  append(out, mark_begin);
  for (const size_t number : {leaf, offset}) {
    append(out, mark_digit + static_cast<char32_t>(number / digit_base));
    append(out, mark_digit + static_cast<char32_t>(number % digit_base));
  }
  return out;
}

// U+10E000 to U+10FFFF.
size_t find_private(std::string_view text, size_t from = 0) {
  for (size_t at = text.find('\xF4', from); at != text.npos;
       at = text.find('\xF4', at + 1))
    if (at + 4 <= text.size() &&
        (text[at + 1] == '\x8E' || text[at + 1] == '\x8F'))
      return at;
  return text.npos;
}

// Nothing where a mark is not whole.
std::optional<MarkedText> without_marks(const std::string& text) {
  MarkedText out;
  size_t from = 0;
  for (size_t at = find_private(text); at != text.npos;
       at = find_private(text, from)) {
    if (at + mark_bytes > text.size() ||
        four_bytes(std::string_view(text).substr(at)) != mark_begin)
      return std::nullopt;
    size_t numbers[2] = {};
    for (size_t i = 0; i < 4; i++) {
      const size_t digit_at = at + 4 + 4 * i;
      if (find_private(text, digit_at) != digit_at) return std::nullopt;
      const char32_t c = four_bytes(std::string_view(text).substr(digit_at));
      if (c >= mark_digit + digit_base) return std::nullopt;
      numbers[i / 2] = numbers[i / 2] * digit_base + (c - mark_digit);
    }
    out.text.append(text, from, at - from);
    out.marks.push_back({out.text.size(), numbers[0], numbers[1]});
    from = at + mark_bytes;
  }
  out.text.append(text, from);
  return out;
}

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f');
}

// Without the white space around it; that of other scripts is text here.
ByteRange core_of(std::string_view text) {
  size_t begin = 0;
  size_t end = text.size();
  while (begin < end && is_space(text[begin]))
    begin++;
  while (end > begin && is_space(text[end - 1]))
    end--;
  return {begin, end};
}

bool is_word(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
         (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 0x80;
}

// Where words begin behind white space.
std::vector<size_t> words_of(std::string_view text) {
  std::vector<size_t> all;
  for (size_t i = 0; i < text.size(); i++)
    if (is_word(text[i]) && (i == 0 || is_space(text[i - 1]))) all.push_back(i);
  if (all.size() <= most_words) return all;
  std::vector<size_t> some;
  for (size_t i = 0; i < most_words; i++)
    some.push_back(all[i * (all.size() - 1) / (most_words - 1)]);
  return some;
}

std::string with_marks(
    const ChatLeaf& leaf, size_t index, const std::vector<size_t>& offsets) {
  std::string out;
  size_t at = 0;
  for (const size_t offset : offsets) {
    out.append(leaf.text, at, offset - at);
    out += mark(index, offset);
    at = offset;
  }
  return out.append(leaf.text, at);
}

void merge(std::vector<ByteRange>& ranges) {
  std::ranges::sort(ranges, {}, &ByteRange::begin);
  std::vector<ByteRange> merged;
  for (const auto& range : ranges) {
    if (!merged.empty() && range.begin <= merged.back().end)
      merged.back().end = std::max(merged.back().end, range.end);
    else
      merged.push_back(range);
  }
  ranges = std::move(merged);
}

}  // namespace

ChatLocator::ChatLocator(
    Render render,
    const Controls& controls,
    ChatJson variables,
    std::vector<ChatLeaf> leaves)
    : render_(std::move(render)),
      variables_(std::move(variables)),
      leaves_(std::move(leaves)),
      places_(leaves_.size(), Places::none) {
  text_ = render_(variables_);
  usable_ = find_private(variables_.dump()) == std::string::npos &&
            find_private(text_) == std::string::npos &&
            leaves_.size() < digit_base * digit_base;
  locate(controls);
}

bool ChatLocator::may_render() {
  return usable_ && renderings_ < limits::chat_renderings &&
         rendered_ < limits::chat_rendered_bytes;
}

std::optional<MarkedText> ChatLocator::marked(
    ChatJson variables, int messages) {
  if (!may_render()) return std::nullopt;
  for (size_t i = 0; i < leaves_.size(); i++) {
    const auto& leaf = leaves_[i];
    if (places_[i] == Places::none || leaf.message >= messages) continue;
    const ByteRange core = core_of(leaf.text);
    const auto offsets = places_[i] == Places::edges
                             ? std::vector<size_t>{core.begin, core.end}
                             : words_of(leaf.text);
    variables[leaf.where] = with_marks(leaf, i, offsets);
  }
  renderings_++;
  try {
    const std::string text = render_(variables);
    rendered_ += text.size();
    return without_marks(text);
  } catch (const Error&) {
    return std::nullopt;  // refused: a part of a conversation may be none
  }
}

// Puts marks into those leaves; where that changes the text, into half of them.
void ChatLocator::settle(const std::vector<size_t>& leaves, Places places) {
  if (leaves.empty()) return;
  const auto before =
      std::exchange(places_, std::vector<Places>(leaves_.size(), Places::none));
  for (const size_t leaf : leaves)
    places_[leaf] = places;
  const auto found = marked(variables_, limits::chat_messages);
  const auto these = std::exchange(places_, before);
  if (found && found->text == text_) {
    for (const size_t leaf : leaves)
      places_[leaf] = these[leaf];
    marks_.insert(marks_.end(), found->marks.begin(), found->marks.end());
    return;
  }
  if (leaves.size() == 1) return;
  const auto middle = leaves.begin() + static_cast<int64_t>(leaves.size() / 2);
  settle({leaves.begin(), middle}, places);
  settle({middle, leaves.end()}, places);
}

void ChatLocator::read_edges(
    ChatLeaf& leaf, const std::vector<ChatMark>& marks) {
  const ByteRange core = core_of(leaf.text);
  for (size_t i = 0; i < marks.size(); i += 2) {
    const bool pair = i + 1 < marks.size() && marks[i].offset == core.begin &&
                      marks[i + 1].offset == core.end;
    if (!pair) {
      leaf.pieces.clear();
      return;
    }
    leaf.pieces.push_back({marks[i].at, marks[i + 1].at});
  }
  leaf.certain = true;
  if (leaf.pieces.empty()) return;  // not written
  const std::string_view text(text_);
  const std::string_view given(leaf.text);
  const auto same = [&](const ByteRange& piece) {
    return text.substr(piece.begin, piece.end - piece.begin) ==
           given.substr(core.begin, core.end - core.begin);
  };
  const bool whole = std::ranges::all_of(leaf.pieces, same);
  leaf.found = whole ? ContentFound::whole : ContentFound::part;
  if (!whole) return;
  leaf.written = {{0, leaf.text.size()}};
  const auto before = given.substr(0, core.begin);
  const auto behind = given.substr(core.end);
  for (auto& piece : leaf.pieces) {
    if (text.substr(0, piece.begin).ends_with(before))
      piece.begin -= before.size();
    if (text.substr(piece.end).starts_with(behind)) piece.end += behind.size();
  }
}

// Each mark is in the midst of text that was copied, as far as both agree.
void ChatLocator::read_words(
    ChatLeaf& leaf, const std::vector<ChatMark>& marks) {
  const std::string_view given(leaf.text);
  for (const auto& mark : marks) {
    size_t left = 0;
    while (left < mark.at && left < mark.offset &&
           text_[mark.at - left - 1] == given[mark.offset - left - 1])
      left++;
    size_t right = 0;
    while (mark.at + right < text_.size() &&
           mark.offset + right < given.size() &&
           text_[mark.at + right] == given[mark.offset + right])
      right++;
    // Not into the midst of a character, nor over white space of the
    // template's.
    const ByteRange piece{mark.offset - left, mark.offset + right};
    ByteRange core =
        core_of(given.substr(piece.begin, piece.end - piece.begin));
    core.begin += piece.begin;
    core.end += piece.begin;
    while (core.begin < core.end && (given[core.begin] & 0xC0) == 0x80)
      core.begin++;
    while (core.end > core.begin && core.end < given.size() &&
           (given[core.end] & 0xC0) == 0x80)
      core.end--;
    leaf.written.push_back(core);
    leaf.pieces.push_back(
        {mark.at - (mark.offset - core.begin),
         mark.at + (core.end - mark.offset)});
  }
  merge(leaf.pieces);
  merge(leaf.written);
  if (leaf.pieces.empty()) return;
  const bool whole =
      leaf.pieces.size() == 1 && leaf.written == std::vector{core_of(given)};
  leaf.found = whole ? ContentFound::whole : ContentFound::part;
}

void ChatLocator::compare(ChatLeaf& leaf) {
  const ByteRange core = core_of(leaf.text);
  const auto given = leaf.text.substr(core.begin, core.end - core.begin);
  const size_t at = text_.find(given);
  if (given.empty() || at == text_.npos ||
      text_.find(given, at + 1) != text_.npos)
    return;
  leaf.pieces = {{at, at + given.size()}};
  leaf.written = {core};
  leaf.found = ContentFound::compared;
}

void ChatLocator::locate(const Controls& controls) {
  std::vector<size_t> all;
  for (size_t i = 0; i < leaves_.size(); i++) {
    const ByteRange core = core_of(leaves_[i].text);
    if (core.begin < core.end)
      all.push_back(i);
    else
      leaves_[i].found = ContentFound::none;
  }
  const auto of_each = [&] {
    std::vector<std::vector<ChatMark>> each(leaves_.size());
    for (const auto& mark : marks_)
      each[mark.leaf].push_back(mark);
    return each;
  };
  settle(all, Places::edges);
  auto marks = of_each();
  std::vector<size_t> again;
  for (const size_t i : all) {
    if (places_[i] == Places::edges) read_edges(leaves_[i], marks[i]);
    if (leaves_[i].certain) continue;
    again.push_back(i);
    places_[i] = Places::none;
    std::erase_if(marks_, [&](const ChatMark& mark) { return mark.leaf == i; });
  }
  settle(again, Places::words);
  marks = of_each();
  for (const size_t i : again) {
    if (places_[i] == Places::words) read_words(leaves_[i], marks[i]);
    if (leaves_[i].pieces.empty()) compare(leaves_[i]);
  }
  // What agrees by chance with an end of a control token is no content's.
  const auto names = again.empty() ? std::vector<ByteRange>() : controls(text_);
  for (const size_t i : again)
    for (auto& piece : leaves_[i].pieces)
      for (const auto& name : names) {
        if (name.begin < piece.begin && piece.begin < name.end)
          piece.begin = std::min(name.end, piece.end);
        if (name.begin < piece.end && piece.end < name.end)
          piece.end = std::max(name.begin, piece.begin);
      }
  std::ranges::stable_sort(marks_, {}, &ChatMark::at);
}

}  // namespace mlxterp
