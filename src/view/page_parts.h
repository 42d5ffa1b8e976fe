// view/page_parts.h: what every page with a grid of cells has: its head, the
// size of its cells, and the card that a cell opens.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mlxterp/report/heatmap.h"

namespace mlxterp::view {

using NamedTexts = std::vector<std::pair<std::string, std::string>>;

/** Kind, headline, prompts with their marked tokens, what was asked for, and,
 * unless it is empty, how to read it: `about` is HTML, all else is escaped. */
std::string page_header(
    std::string_view kind,
    std::string_view headline,
    const std::vector<report::PromptLine>& prompts,
    const NamedTexts& facts,
    std::string_view about);

/** What a page's cells take. */
struct GridSize {
  size_t rows = 0, columns = 0;
  size_t row_label = 0;    ///< Characters of the longest row's name.
  size_t column_note = 0;  ///< Of the longest text under a column's name.
  size_t cell = 0;         ///< Of the longest cell.
  /** Cells are texts, cut where they must be; else numbers, which go where they
   * do not fit. */
  bool texts = false;

  /** More columns than a page 1280 pixels wide can show: the grid scrolls, and
   * begins at its end. */
  bool wide() const;
  /** Rows as high as fit under the header, columns as wide as fit beside each
   * other. */
  std::string style() const;
  /** <div class="grid"> or with "wide". */
  std::string open() const;
};

/** What a page of cells does: a card beside the cell under the pointer, pinned
 * by a click, a tap or Enter, and arrow keys. Calls `fill(card, i)`, which the
 * page's own script before it defines, as it does `columns`. */
extern const std::string_view grid_script;

}  // namespace mlxterp::view
