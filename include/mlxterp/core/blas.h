// mlxterp/core/blas.h: which BLAS does the matrix products on the CPU.

#pragma once

#include <cstddef>
#include <string>

namespace mlxterp {

struct Blas {
  std::string name;   ///< "OpenBLAS 0.3.21 (Haswell)", "reference", ...
  bool slow = false;  ///< The one-thread reference BLAS of MLX's Linux wheel.
};

/** Finds out which library is in use; measures nothing. */
Blas blas();

/** Address space that its buffers take, which it looks for without end where
 * `ulimit -v` leaves less; 0 where that is not known. */
size_t blas_buffers();

}  // namespace mlxterp
