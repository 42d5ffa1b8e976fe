// core/limited_memory.h: running where `ulimit -v` leaves little.

#pragma once

namespace mlxterp {

/** Where the address space is limited, makes memory that cannot be had an
 * Error (environment) instead of the end of the process, and takes what
 * OpenBLAS needs now, since it would wait for it forever. Evaluates a small
 * product. Does nothing elsewhere, and once is enough. */
void prepare_for_limited_memory();

}  // namespace mlxterp
