// mlxterp/core/progress.h: how work reports on itself. The library prints
// nothing; who calls it may show this.

#pragma once

#include <functional>
#include <string_view>

namespace mlxterp {

/** Called now and then with what is being done and how much of it is done, 0 to
 * 1 (and 0 where nobody can tell), on the thread that does the work.
 * An exception thrown from it ends the work. Empty: nobody is told. */
using Progress = std::function<void(std::string_view what, double done)>;

/** Called with a sentence about what is odd but stops nothing. Empty: nobody is
 * told. */
using Warn = std::function<void(std::string_view sentence)>;

}  // namespace mlxterp
