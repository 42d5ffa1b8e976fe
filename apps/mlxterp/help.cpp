#include "help.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string>
#include <string_view>

namespace mlxterp::cli {

namespace {

constexpr size_t columns = 80;

// In lines of that width, broken at spaces; every line but the first begins
// with `indent` spaces.
std::string wrapped(std::string_view text, size_t width, size_t indent = 0) {
  std::string out;
  size_t taken = 0;
  while (!text.empty()) {
    const auto end = std::min(text.find(' '), text.size());
    const auto word = text.substr(0, end);
    if (taken > 0 && taken + 1 + word.size() > width) {
      out += '\n' + std::string(indent, ' ');
      taken = 0;
    } else if (taken > 0) {
      out += ' ';
      ++taken;
    }
    out += word;
    taken += word.size();
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

class Help : public CLI::Formatter {
 public:
  std::string make_description(const CLI::App* app) const override {
    const auto text = app->get_description();
    return text.empty() ? text : wrapped(text, columns) + "\n";
  }

  std::string make_option_desc(const CLI::Option* option) const override {
    return wrapped(
        CLI::Formatter::make_option_desc(option), columns - column_width_ - 1);
  }

  std::string make_subcommand(const CLI::App* sub) const override {
    auto out = "  " + sub->get_display_name(true);
    out.resize(std::max(out.size() + 1, column_width_), ' ');
    return out +
           wrapped(
               sub->get_description(),
               columns - column_width_ - 1,
               column_width_) +
           "\n";
  }
};

}  // namespace

std::string extras_text(const CLI::App& app) {
  const auto words = app.remaining(/*recurse=*/true);
  const CLI::App* command = &app;
  std::string verb;
  for (auto chosen = app.get_subcommands(); !chosen.empty();
       chosen = command->get_subcommands()) {
    command = chosen.front();
    verb += command->get_name() + " ";
  }
  const auto help = "; see mlxterp " + verb + "--help";
  for (const auto& word : words)
    if (word.size() > 1 && word[0] == '-')
      return fmt::format("there is no option {}{}", word, help);
  const auto rest = fmt::format("{}", fmt::join(words, " "));
  if (verb.empty())
    return fmt::format("there is no command '{}'{}", rest, help);
  const auto* prompt = command->get_option_no_throw("PROMPT");
  if (prompt && prompt->count() > 0)
    return fmt::format(
        "these words are left over: {0}; put the prompt in quotes: '{1} "
        "{0}'{2}",
        rest,
        prompt->results().front(),
        help);
  return fmt::format(
      "these words are left over: {}; put a text of several words in quotes{}",
      rest,
      help);
}

std::shared_ptr<CLI::FormatterBase> help_formatter() {
  return std::make_shared<Help>();
}

}  // namespace mlxterp::cli
