#include "mlxterp/view/terminal.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <span>
#include <utility>

#include "core/utf8.h"
#include "view/characters.h"

namespace mlxterp::view {

namespace {

constexpr std::string_view gap = "  ";
constexpr size_t narrowest = 20;
constexpr size_t widest = 1000;

size_t columns_variable() {
  const char* text = std::getenv("COLUMNS");
  size_t value = 0;
  if (text) std::from_chars(text, text + std::strlen(text), value);
  return value;
}

// Cuts where `width` columns are full; returns the bytes that fit.
size_t prefix(std::string_view text, size_t width) {
  size_t at = 0;
  for (size_t taken = 0; at < text.size();) {
    const auto c = character_at(text, at);
    taken += width_of(c.code);
    if (taken > width) break;
    at += c.length;
  }
  return at;
}

// Text in lines of `width`, broken at spaces where it can.
std::vector<std::string> wrap(std::string_view text, size_t width) {
  std::vector<std::string> lines;
  while (display_width(text) > width) {
    size_t end = std::max<size_t>(prefix(text, width), 1);
    const auto space = text.substr(0, end + 1).rfind(' ');
    const auto dot = text.substr(0, end).find_last_of("./");
    if (space != std::string_view::npos && space > 0)
      end = space;
    else if (dot != std::string_view::npos && dot > 0)
      end = dot + 1;
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(text.size(), end + (text[end] == ' ')));
  }
  lines.emplace_back(text);
  return lines;
}

}  // namespace

Terminal terminal(int descriptor) {
  Terminal found;
  const bool is_terminal = isatty(descriptor) == 1;
  winsize size{};
  if (is_terminal && ioctl(descriptor, TIOCGWINSZ, &size) == 0 &&
      size.ws_col > 0)
    found.width = size.ws_col;
  else if (const size_t columns = columns_variable())
    found.width = columns;
  found.width = std::clamp(found.width, narrowest, widest);
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  found.color = is_terminal && !(no_color && *no_color) && term &&
                std::string_view(term) != "dumb";
  return found;
}

std::string escape(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const auto c = character_at(text, at);
    if (c.valid && c.code == '\n')
      out += "\\n";
    else if (c.valid && c.code == '\t')
      out += "\\t";
    else if (c.valid && c.code == '\r')
      out += "\\r";
    else if (!c.valid || (is_invisible(c.code) && c.code < 0x80))
      out += fmt::format("\\x{:02x}", c.code);
    else if (is_invisible(c.code))
      out += fmt::format("\\u{:04x}", c.code);
    else
      out += text.substr(at, c.length);
    at += c.length;
  }
  return out;
}

std::string visible(std::string_view label) {
  if (label.find_first_not_of(' ') != std::string_view::npos)
    return escape(label);
  std::string out;
  for (size_t i = 0; i < label.size(); ++i)
    out += "␣";
  return out;
}

size_t display_width(std::string_view text) {
  size_t width = 0;
  for (size_t at = 0; at < text.size();) {
    const auto c = character_at(text, at);
    width += width_of(c.code);
    at += c.length;
  }
  return width;
}

std::string fit(std::string_view text, size_t width, Align align) {
  std::string out(text);
  if (display_width(text) > width) {
    out = text.substr(0, prefix(text, width > 0 ? width - 1 : 0));
    if (width > 0) out += "…";
  }
  const std::string padding(width - std::min(width, display_width(out)), ' ');
  return align == Align::left ? out + padding : padding + out;
}

std::string wrapped(std::string_view text, const Terminal& terminal) {
  std::vector<std::string> lines;
  for (size_t at = 0; at <= text.size();) {
    const auto line = text.substr(at, text.find('\n', at) - at);
    if (line.find('\x1b') != std::string_view::npos)
      lines.emplace_back(line);
    else
      std::ranges::move(wrap(line, terminal.width), std::back_inserter(lines));
    at += line.size() + 1;
  }
  return fmt::format("{}", fmt::join(lines, "\n"));
}

std::string paragraph(std::string_view text, const Terminal& terminal) {
  return wrapped(escape(text), terminal);
}

std::string toned(std::string_view text, Tone tone, const Terminal& to) {
  if (!to.color || tone == Tone::plain) return std::string(text);
  const char* code = tone == Tone::strong  ? "1"
                     : tone == Tone::faint ? "2"
                                           : "1;36";
  return fmt::format("\x1b[{}m{}\x1b[0m", code, text);
}

void Table::add(std::vector<std::string> cells) {
  cells.resize(columns_.size());
  for (auto& cell : cells)
    cell = escape(cell);
  rows_.push_back(std::move(cells));
}

std::string Table::text(const Terminal& to) const {
  std::vector<size_t> widths;
  size_t before = 0;  // columns taken by all but the last
  for (size_t i = 0; i < columns_.size(); ++i) {
    size_t width = display_width(columns_[i].heading);
    for (const auto& row : rows_)
      width = std::max(width, display_width(row[i]));
    widths.push_back(width);
    if (i + 1 < columns_.size()) before += width + gap.size();
  }
  // The last column may wrap, but not into a sliver.
  const size_t room = to.width > before ? to.width - before : 0;
  const size_t last = std::min(widths.back(), std::max(room, narrowest));
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string head;
    for (size_t i = 0; i + 1 < cells.size(); ++i)
      head.append(fit(cells[i], widths[i], columns_[i].align)).append(gap);
    std::string out;
    for (const auto& part : wrap(cells.back(), last)) {
      out += out.empty() ? head : std::string(before, ' ');
      out += columns_.back().align == Align::right
                 ? fit(part, last, Align::right)
                 : part;
      out.erase(out.find_last_not_of(' ') + 1);
      out += '\n';
    }
    return out;
  };
  std::vector<std::string> headings;
  for (const auto& column : columns_)
    headings.push_back(column.heading);
  std::string out;
  if (std::any_of(headings.begin(), headings.end(), [](const auto& h) {
        return !h.empty();
      })) {
    auto heading = line(headings);
    heading.pop_back();
    out = toned(heading, Tone::faint, to) + '\n';
  }
  for (const auto& row : rows_)
    out += line(row);
  return out;
}

std::string sparkline(const std::vector<float>& values) {
  constexpr std::array bars = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::string out;
  for (const float value : values) {
    const float step = std::clamp(value, 0.0f, 1.0f) * bars.size();
    out += std::isnan(value)
               ? "?"
               : bars[std::min<size_t>(static_cast<size_t>(step), 7)];
  }
  return out;
}

std::string percent(float p) {
  if (std::isnan(p)) return "NaN";
  if (p >= 0.0995f) return fmt::format("{:.0f}%", p * 100);
  if (p >= 0.001f) return fmt::format("{:.1f}%", p * 100);
  return "<0.1%";
}

}  // namespace mlxterp::view
