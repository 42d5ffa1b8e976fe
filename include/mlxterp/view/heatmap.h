// mlxterp/view/heatmap.h: numbers of two axes as a terminal's grid and as a
// page.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/view/terminal.h"

namespace mlxterp::view {

/** Values around zero, [row, column] flat. Texts are as they are; the views
 * escape them. */
struct Heatmap {
  std::string kind;     ///< "Activation patching": above the heading.
  std::string heading;  ///< What it is of: a prompt.
  std::string about;    ///< A sentence or two on how to read it.
  std::string row_axis, column_axis;  ///< "layer", "pos"
  std::vector<std::string> rows, columns;
  /** Under the columns' names, where there is more to say: the prompt's tokens.
   */
  std::vector<std::string> notes = {};
  std::vector<float> values;
  /** Shown as percent (1 is 100) and else as they are. */
  bool percent = false;
};

/** The grid with the first row on top. Columns that the width has no room for
 * are left out from the front, and it says so. */
std::string heatmap_text(const Heatmap& map, const Terminal& terminal);

/** One self-contained page: zero is paper, above it warm, below it cold; each
 * cell tells its value under the mouse or the keyboard's focus. */
std::string heatmap_page(const Heatmap& map);

}  // namespace mlxterp::view
