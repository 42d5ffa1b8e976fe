// apps/mlxterp/progress.h: what is said on stderr while a command works.

#pragma once

#include <string>
#include <string_view>

#include "mlxterp/core/progress.h"

namespace mlxterp::cli {

/** Shows work that takes more than a second, on a terminal's stderr: a bar and
 * how long it will take, or the seconds where nobody can tell how much is
 * done. `lines`: elsewhere too, as a line now and then. */
Progress progress(bool lines = false);
void end_progress();

/** Says so of work that reports nothing itself, until end_progress(). */
void show_progress(std::string_view what);

/** A line on stderr. */
void note(const std::string& text);

/** "warning: ..." on stderr, escaped. */
void warn(std::string_view text);

}  // namespace mlxterp::cli
