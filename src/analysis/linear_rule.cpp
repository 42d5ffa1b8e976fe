#include "mlxterp/analysis/linear_rule.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "core/fail.h"

namespace mlxterp {

namespace {

struct Named {
  LinearRule::Kind kind;
  const char* name;
};
constexpr Named names[] = {
    {LinearRule::full, "full"},
    {LinearRule::relevance, "relevance"},
    {LinearRule::frozen, "frozen"}};
constexpr std::string_view hold = "hold(";

// Between commas that stand outside of braces, without spaces around.
std::vector<std::string> listed(std::string_view text) {
  std::vector<std::string> out(1);
  int depth = 0;
  for (const char c : text) {
    depth += (c == '{') - (c == '}');
    if (c == ',' && depth == 0)
      out.emplace_back();
    else if (c != ' ')
      out.back() += c;
  }
  return out;
}

}  // namespace

std::string name(const LinearRule& rule) {
  std::string out;
  if (rule.kind != LinearRule::hold)
    out = std::ranges::find(names, rule.kind, &Named::kind)->name;
  if (rule.sites.empty()) return out;
  return fmt::format(
      "{}{}{}{})",
      out,
      out.empty() ? "" : "+",
      hold,
      fmt::join(rule.sites, ", "));
}

LinearRule linear_rule(std::string_view text) {
  LinearRule out(LinearRule::hold);
  auto rest = text;
  for (const auto& [kind, word] : names) {
    if (text == word) return kind;
    const auto begun = fmt::format("{}+", word);
    if (kind == LinearRule::full || !text.starts_with(begun)) continue;
    out.kind = kind;
    rest.remove_prefix(begun.size());
  }
  if (rest.starts_with(hold) && rest.ends_with(')')) {
    out.sites = listed(rest.substr(hold.size(), rest.size() - hold.size() - 1));
    if (std::ranges::none_of(out.sites, &std::string::empty)) return out;
  }
  fail(
      ErrorKind::usage,
      "[linear_rule] there is no rule '{}'; use full, relevance, frozen, "
      "hold(SITE, ...), such as hold(attn.pattern, ln1.scale), or both, "
      "relevance+hold(attn.pattern)",
      printable(text));
}

}  // namespace mlxterp
