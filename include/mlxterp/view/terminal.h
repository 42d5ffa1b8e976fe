// mlxterp/view/terminal.h: text for a terminal: escaped, measured, cut,
// coloured and laid out in tables.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace mlxterp::view {

/** What a stream's other end can show. */
struct Terminal {
  size_t width = 80;
  bool color = false;
};

/** What stands behind an open file descriptor: its width (of anything but a
 * terminal $COLUMNS, else 80) and whether colour is welcome there: on a
 * terminal, unless NO_COLOR is set or TERM is "dumb". */
Terminal terminal(int descriptor);

/**
 * `text` as one line of valid UTF-8 that does nothing but show itself: a
 * newline becomes \n, ESC \x1b, a bidirectional control \u202e, a byte that is
 * not UTF-8 \xff.
 */
std::string escape(std::string_view text);

/** A token's label, escaped; one of nothing but spaces as `␣`. */
std::string visible(std::string_view label);

/** Columns that UTF-8 text takes on a terminal: a CJK character or an emoji
 * two, a combining mark none. */
size_t display_width(std::string_view text);

enum class Align { left, right };

/** `text` in exactly `width` columns: cut with an ellipsis or padded. */
std::string fit(std::string_view text, size_t width, Align align = Align::left);

/** Lines that are wider than the terminal, broken at spaces where they can be;
 * those with colours stay as they are. Escape what came from outside first. */
std::string wrapped(std::string_view text, const Terminal& terminal);

/** One sentence or more in lines of the terminal's width. Escapes it. */
std::string paragraph(std::string_view text, const Terminal& terminal);

enum class Tone { plain, strong, faint, accent };

/** `text` in that tone where colour is welcome. Escape it first. */
std::string toned(std::string_view text, Tone tone, const Terminal& terminal);

/**
 * Columns of text as wide as their widest cell, two spaces apart. Where a line
 * exceeds the terminal's width, the last column takes what is left and the
 * rest of it goes on below. Escapes every cell.
 */
class Table {
 public:
  /** A column for each heading, aligned with it. */
  struct Column {
    std::string heading;
    Align align = Align::left;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  /** One cell a column. */
  void add(std::vector<std::string> cells);

  std::string text(const Terminal& terminal) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

/** A bar of eighths for each value from 0 to 1; `?` for a NaN. */
std::string sparkline(const std::vector<float>& values);

/** A probability as 62%, 0.4% or <0.1%; "NaN". */
std::string percent(float probability);

}  // namespace mlxterp::view
