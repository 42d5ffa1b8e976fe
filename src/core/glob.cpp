#include "core/glob.h"

#include <charconv>
#include <optional>

#include "core/fail.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

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
      *last - *first >= static_cast<int>(limits::pattern_names))
    wrong(pattern, "a range is two numbers, the smaller first");
  for (int i = *first; i <= *last; ++i)
    all.push_back(std::to_string(i));
  return all;
}

}  // namespace

std::vector<std::string> expand_braces(std::string_view pattern) {
  if (pattern.size() > limits::pattern_bytes)
    wrong(
        pattern,
        fmt::format(
            "it has {} bytes, at most {} are read",
            pattern.size(),
            limits::pattern_bytes));
  std::vector<std::string> all = {""};
  auto rest = pattern;
  while (true) {
    const auto open = rest.find('{');
    const auto plain = rest.substr(0, open);
    if (plain.find('}') != plain.npos) wrong(pattern, "a '}' without its '{'");
    for (auto& name : all)
      name += plain;
    if (open == rest.npos) break;
    const auto close = rest.find('}', open);
    if (close == rest.npos) wrong(pattern, "a '{' without its '}'");
    const auto body = rest.substr(open + 1, close - open - 1);
    if (body.find('{') != body.npos) wrong(pattern, "a '{' inside another");

    std::vector<std::string> longer;
    const auto ends = choices(body, pattern);
    if (all.size() * ends.size() > limits::pattern_names)
      wrong(
          pattern,
          fmt::format(
              "it stands for more than {} names", limits::pattern_names));
    for (const auto& name : all)
      for (const auto& end : ends)
        longer.push_back(name + end);
    all = std::move(longer);
    rest.remove_prefix(close + 1);
  }
  // Each of these is held against every name of the model.
  if (all.size() > limits::pattern_searches &&
      pattern.find('*') != pattern.npos)
    wrong(
        pattern,
        fmt::format(
            "it stands for {} patterns with a star, more than {}",
            all.size(),
            limits::pattern_searches));
  return all;
}

// Goes back to the last star only: what an earlier one could take instead, the
// last can as well. A star ends at a dot, so there is nothing to go back to
// behind one.
bool glob_matches(std::string_view pattern, std::string_view name) {
  size_t p = 0, t = 0, star = pattern.npos, resume = 0;
  while (t < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      while (p < pattern.size() && pattern[p] == '*')
        ++p;  // many in a row are one
      star = p;
      resume = t;
    } else if (p < pattern.size() && pattern[p] == name[t]) {
      if (name[t] == '.') star = pattern.npos;
      ++p;
      ++t;
    } else if (star != pattern.npos && name[resume] != '.') {
      p = star;
      t = ++resume;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == pattern.npos;
}

}  // namespace mlxterp
