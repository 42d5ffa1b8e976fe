#include "mlxterp/spec/when.h"

#include <optional>

#include "spec/text.h"

namespace mlxterp::spec {

namespace {

std::optional<When> steps_of(std::string_view text) {
  const auto dots = text.find("..");
  if (dots == text.npos) return std::nullopt;
  const auto first = whole_number<int>(trimmed(text.substr(0, dots)));
  const auto rest = trimmed(text.substr(dots + 2));
  const auto last =
      rest.empty() ? std::optional(When::always) : whole_number<int>(rest);
  if (!first || !last || *first < 0 || *last < *first) return std::nullopt;
  return When{*first, *last};
}

}  // namespace

std::optional<When> find_when(std::string_view given) {
  const auto text = trimmed(given);
  if (text == "prompt") return When::prompt();
  if (text == "generated") return When::generated();
  if (text == "all") return When::all();
  constexpr std::string_view one = "step:", several = "steps:";
  if (text.starts_with(several)) return steps_of(text.substr(several.size()));
  if (!text.starts_with(one)) return std::nullopt;
  const auto step = whole_number<int>(trimmed(text.substr(one.size())));
  if (!step || *step < 0) return std::nullopt;
  return When::step(*step);
}

When parse_when(std::string_view text, std::string_view name) {
  if (const auto when = find_when(text)) return *when;
  fail(
      ErrorKind::usage,
      "{} '{}' is not one of prompt, generated, all, step:3, steps:2..5 "
      "(step 0 is the prompt)",
      name,
      printable(std::string(text)));
}

std::string text_of(const When& when) {
  if (when == When::prompt()) return "prompt";
  if (when == When::generated()) return "generated";
  if (when == When::all()) return "all";
  if (when.first == when.last) return fmt::format("step:{}", when.first);
  if (when.last == When::always) return fmt::format("steps:{}..", when.first);
  return fmt::format("steps:{}..{}", when.first, when.last);
}

}  // namespace mlxterp::spec
