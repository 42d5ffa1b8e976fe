#include "sae/yaml.h"

#include "core/fail.h"

namespace mlxterp {

namespace {

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t\r");
  if (first == text.npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r") - first + 1);
}

// Without a comment that stands behind a space, and outside quotes.
std::string_view uncommented(std::string_view text) {
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quote != 0) {
      if (c == quote) quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '#' && (i == 0 || text[i - 1] == ' ')) {
      return text.substr(0, i);
    }
  }
  return text;
}

std::string plain(std::string_view text) {
  if (text.size() >= 2 && (text[0] == '"' || text[0] == '\'') &&
      text.back() == text[0])
    text = text.substr(1, text.size() - 2);
  else if (text == "null" || text == "~")
    text = "";
  return std::string(text);
}

class Reader {
 public:
  Reader(std::string_view text, std::string_view what)
      : text_(text), what_(what) {}

  FlatYaml read() {
    while (!text_.empty()) {
      const auto end = text_.find('\n');
      const auto line = text_.substr(0, end);
      text_.remove_prefix(end == text_.npos ? text_.size() : end + 1);
      ++number_;
      const auto bare = trimmed(uncommented(line));
      if (!bare.empty() && bare != "---")
        read_line(line.find_first_not_of(" \t"), bare);
    }
    return std::move(out_);
  }

 private:
  void read_line(size_t indent, std::string_view line) {
    if (line == "-" || line.starts_with("- ")) {
      if (list_.empty()) bad("a list without a key");
      auto& items = out_.lists[list_];
      items.emplace_back();
      const auto rest = trimmed(line.substr(1));
      if (rest.empty()) return;
      if (!member(rest, items.back())) items.back()[""] = value_of(rest);
      return;
    }
    if (indent > 0) {
      auto& items = out_.lists[list_];
      if (list_.empty() || items.empty() || !member(line, items.back()))
        bad("values nested in values");
      return;
    }
    FlatYaml::Item pair;
    if (!member(line, pair)) bad("a line that is no 'key: value'");
    const auto& [key, value] = *pair.begin();
    list_.clear();
    if (value.empty())
      list_ = key;  // its items may follow
    else
      out_.values[key] = value;
  }

  // "key: value" into `to`; the colon of "hf://x" does not count.
  bool member(std::string_view line, FlatYaml::Item& to) const {
    const auto colon = line.ends_with(':') ? line.size() - 1 : line.find(": ");
    if (colon == line.npos || line[0] == '"' || line[0] == '\'') return false;
    to[std::string(trimmed(line.substr(0, colon)))] =
        value_of(trimmed(line.substr(colon + 1)));
    return true;
  }

  std::string value_of(std::string_view text) const {
    constexpr std::string_view beyond = "&*!|>{[%@`";
    if (!text.empty() && beyond.find(text[0]) != beyond.npos && text != "[]")
      bad("more of YAML than plain values and lists of them");
    return plain(text);
  }

  [[noreturn]] void bad(std::string_view why) const {
    fail(
        ErrorKind::bad_data,
        "[load_sae] line {} of {} has {}; is it the configuration of a set of "
        "transcoders?",
        number_,
        what_,
        why);
  }

  std::string_view text_, what_;
  size_t number_ = 0;
  std::string list_;  // whose items may come
  FlatYaml out_;
};

}  // namespace

std::string FlatYaml::text(
    const std::string& key, const std::string& or_else) const {
  const auto found = values.find(key);
  return found == values.end() ? or_else : found->second;
}

FlatYaml parse_flat_yaml(std::string_view text, std::string_view what) {
  return Reader(text, what).read();
}

}  // namespace mlxterp
