#include "help.h"

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

std::shared_ptr<CLI::FormatterBase> help_formatter() {
  return std::make_shared<Help>();
}

}  // namespace mlxterp::cli
