#include "generate/text_stream.h"

#include <algorithm>

#include "core/utf8.h"

namespace mlxterp {

namespace {

// Where the bytes that may still become a character begin.
size_t whole_characters(std::string_view text) {
  // A character has four bytes at most.
  const size_t from = text.size() > 3 ? text.size() - 3 : 0;
  for (size_t at = text.size(); at > from;) {
    const auto byte = static_cast<unsigned char>(text[--at]);
    if ((byte & 0xC0u) == 0x80u) continue;
    const size_t needed = byte >= 0xF0   ? 4
                          : byte >= 0xE0 ? 3
                          : byte >= 0xC0 ? 2
                                         : 1;
    return text.size() - at < needed ? at : text.size();
  }
  return text.size();
}

// The same where another program decodes, which writes U+FFFD in place of a
// character's first bytes.
size_t final_characters(std::string_view text) {
  constexpr std::string_view replaced = "\xEF\xBF\xBD";
  text = text.substr(0, whole_characters(text));
  while (text.ends_with(replaced))
    text.remove_suffix(replaced.size());
  return text.size();
}

// How many bytes at the end of text might be the beginning of a stop.
size_t begun(std::string_view text, const std::vector<std::string>& stops) {
  size_t most = 0;
  for (const auto& stop : stops)
    for (size_t n = std::min(stop.size() - 1, text.size()); n > most; --n)
      if (text.ends_with(std::string_view(stop).substr(0, n))) most = n;
  return most;
}

}  // namespace

TextStream::TextStream(
    std::optional<Tokenizer> tokenizer,
    int before,
    std::vector<std::string> stops)
    : tokenizer_(std::move(tokenizer)),
      ids_({before}),
      stops_(std::move(stops)) {
  if (tokenizer_) skipped_ = tokenizer_->decode(ids_).size();
}

std::string TextStream::add(int id) {
  if (!tokenizer_) return "";
  ids_.push_back(id);
  all_ = tokenizer_->decode(ids_);
  all_.erase(0, skipped_);
  size_t end = std::string::npos;
  for (const auto& stop : stops_)
    end = std::min(end, all_.find(stop));
  if (end != std::string::npos) {
    stopped_ = true;
    all_.resize(end);
    return given(end);
  }
  const size_t whole = final_characters(all_);
  return given(
      whole -
      std::min(whole, begun(std::string_view(all_).substr(0, whole), stops_)));
}

std::string TextStream::flush() {
  return given(stopped_ ? all_.size() : whole_characters(all_));
}

std::string TextStream::given(size_t whole) {
  // A stop may begin before what was given out only if it was found too late,
  // which holding back prevents.
  if (whole <= text_.size()) return "";
  auto piece = all_.substr(text_.size(), whole - text_.size());
  text_ += piece;
  return piece;
}

}  // namespace mlxterp
