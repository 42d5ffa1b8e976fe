// mlxterp/view/heatmap.h: numbers of two axes as a terminal's grid and as a
// page.

#pragma once

#include <string>

#include "mlxterp/report/heatmap.h"
#include "mlxterp/view/terminal.h"

namespace mlxterp::view {

using report::Heatmap;

/** The grid with the first row on top. Columns that the width has no room for
 * are left out from the front, and it says so. */
std::string heatmap_text(const Heatmap& map, const Terminal& terminal);

/** One self-contained page: zero is neutral, above it warm, below it cold; each
 * cell shows its value under the mouse or the keyboard's focus. */
std::string heatmap_page(const Heatmap& map);

}  // namespace mlxterp::view
