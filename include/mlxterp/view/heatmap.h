// mlxterp/view/heatmap.h: numbers of two axes as a terminal's grid and as a
// page.

#pragma once

#include <string>

#include "mlxterp/report/heatmap.h"
#include "mlxterp/view/terminal.h"

namespace mlxterp::view {

using report::Heatmap;

/** The grid, cells that cannot act left blank. Columns that the width has no
 * room for are left out from the front, and it says so. */
std::string heatmap_text(const Heatmap& map, const Terminal& terminal);

/** The five cells farthest from neutral, a line each; "" for a grid that is
 * read at a glance. */
std::string largest_text(const Heatmap& map, const Terminal& terminal);

/** One self-contained page: the takeaway, what was asked for, the grid and its
 * largest cells. Above neutral is warm, below it cold, what cannot act hatched;
 * each cell shows its values under the pointer, at a tap, or under the
 * keyboard's focus. */
std::string heatmap_page(const Heatmap& map);

}  // namespace mlxterp::view
