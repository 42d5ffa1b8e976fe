// core/mlx_calls.h: where the functions lead that libmlx calls through its
// table of calls, on Linux. Elsewhere nothing is seen and nothing changed.

#pragma once

#include <functional>

namespace mlxterp {

/** Goes over libmlx's calls: a function's linker name and its slot. */
using VisitCall = std::function<void(const char* name, void** slot)>;
void visit_mlx_calls(const VisitCall& visit);

/** Makes calls through this slot lead to `function`. */
void point_call(void** slot, void* function);

}  // namespace mlxterp
