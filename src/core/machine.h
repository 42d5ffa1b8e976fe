// core/machine.h: what this machine is. The one file that knows operating
// systems is machine.cpp.

#pragma once

#include <cstddef>

namespace mlxterp {

/** Bytes of memory this machine, or the container this runs in, has. */
size_t machine_memory();

}  // namespace mlxterp
