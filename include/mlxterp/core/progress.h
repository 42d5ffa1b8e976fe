// mlxterp/core/progress.h: how long work reports its progress. The library
// prints nothing; the caller may show this.

#pragma once

#include <functional>
#include <string_view>

namespace mlxterp {

/** Called now and then with what is being done and how much of it is done, 0 to
 * 1 (0 also if unknown), on the thread that does the work. An exception
 * thrown from it ends the work. Empty: nothing is reported. */
using Progress = std::function<void(std::string_view what, double done)>;

/** Called with a warning, a sentence about something that is unusual but not an
 * error. Empty: warnings are dropped. */
using Warn = std::function<void(std::string_view sentence)>;

}  // namespace mlxterp
