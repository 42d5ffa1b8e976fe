// mlxterp/view/lens.h: a logit lens as a terminal's table and as a page.

#pragma once

#include <string>

#include "mlxterp/analysis/lens.h"
#include "mlxterp/report/lens.h"
#include "mlxterp/view/terminal.h"

namespace mlxterp::view {

using report::LensNames;

/**
 * The winner of each cell and its probability, the last layer on top; then how
 * the tracked token fares at the last position shown. Positions that the width
 * has no room for are left out from the front, and it says so.
 */
std::string lens_text(
    const Lens& lens, const LensNames& names, const Terminal& terminal);

/**
 * One self-contained page: the same grid, each cell opening its best tokens
 * under the mouse or the keyboard's focus, and the tracked token's way through
 * the layers. Loads nothing. Of a huge lens it shows the last positions, and
 * says so.
 */
std::string lens_page(const Lens& lens, const LensNames& names);

}  // namespace mlxterp::view
