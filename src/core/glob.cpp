#include "core/glob.h"

#include <charconv>
#include <optional>

#include "core/fail.h"

namespace mlxterp {

namespace {

constexpr size_t most_names = 10'000;

[[noreturn]] void wrong(std::string_view pattern, std::string_view why) {
  fail(
      ErrorKind::usage,
      "[sites] pattern '{}': {}; write layers.*.attn.z, "
      "layers.{{3..7}}.resid_post or layers.{{1,4}}.mlp_out",
      printable(pattern),
      why);
}

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (size_t end; (end = text.find(at)) != text.npos;
       text.remove_prefix(end + 1))
    parts.push_back(text.substr(0, end));
  parts.push_back(text);
  return parts;
}

std::optional<int> number(std::string_view text) {
  int value = 0;
  const auto* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end) return std::nullopt;
  return value;
}

// What stands between one pair of braces, spelt out.
std::vector<std::string> choices(
    std::string_view body, std::string_view pattern) {
  if (body.empty()) wrong(pattern, "nothing between '{' and '}'");
  std::vector<std::string> all;
  const auto dots = body.find("..");
  if (dots == body.npos) {
    for (const auto choice : split(body, ','))
      all.emplace_back(choice);
    return all;
  }
  const auto first = number(body.substr(0, dots));
  const auto last = number(body.substr(dots + 2));
  if (!first || !last || *first < 0 || *first > *last ||
      *last - *first >= static_cast<int>(most_names))
    wrong(pattern, "a range is two numbers, the smaller first");
  for (int i = *first; i <= *last; ++i)
    all.push_back(std::to_string(i));
  return all;
}

// `*` in one component; goes back to the last star only, so never for long.
bool component_matches(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = pattern.npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != pattern.npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == pattern.npos;
}

}  // namespace

std::vector<std::string> expand_braces(std::string_view pattern) {
  std::vector<std::string> all = {""};
  auto rest = pattern;
  while (true) {
    const auto open = rest.find('{');
    const auto plain = rest.substr(0, open);
    if (plain.find('}') != plain.npos) wrong(pattern, "a '}' without its '{'");
    for (auto& name : all)
      name += plain;
    if (open == rest.npos) return all;
    const auto close = rest.find('}', open);
    if (close == rest.npos) wrong(pattern, "a '{' without its '}'");
    const auto body = rest.substr(open + 1, close - open - 1);
    if (body.find('{') != body.npos) wrong(pattern, "a '{' inside another");

    std::vector<std::string> longer;
    const auto ends = choices(body, pattern);
    if (all.size() * ends.size() > most_names)
      wrong(pattern, "it stands for more than 10,000 names");
    for (const auto& name : all)
      for (const auto& end : ends)
        longer.push_back(name + end);
    all = std::move(longer);
    rest.remove_prefix(close + 1);
  }
}

bool glob_matches(std::string_view pattern, std::string_view name) {
  const auto patterns = split(pattern, '.'), names = split(name, '.');
  if (patterns.size() != names.size()) return false;
  for (size_t i = 0; i < names.size(); ++i)
    if (!component_matches(patterns[i], names[i])) return false;
  return true;
}

}  // namespace mlxterp
