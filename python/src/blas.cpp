// The fast BLAS on Linux, also where MLX was imported first. Python binds
// libmlx's calls when it loads it; their slots are pointed at OpenBLAS anew.
// And whether what answers multiplies rightly.

#include "mlxterp/core/blas.h"

#include "bind.h"
#include "core/limited_memory.h"
#include "mlx/device.h"

#ifdef __linux__
#include <dlfcn.h>

#include <cstring>
#include <string>

#include "core/mlx_calls.h"
#endif

namespace mlxterp::python {

namespace {

#ifdef __linux__

// What multiplies MLX's matrices. A slot that was never called yet leads into
// libmlx itself.
Blas answering() {
  Sgemm* sgemm = nullptr;
  visit_mlx_calls([&](const char* name, void** slot) {
    if (std::strcmp(name, "cblas_sgemm") == 0)
      sgemm = reinterpret_cast<Sgemm*>(*slot);
  });
  // Not there: libmlx binds its calls otherwise, to the first in the order.
  return sgemm ? blas_of(sgemm) : blas();
}

void prefer_openblas() {
  if (!answering().slow) return;
  // This extension is linked against it, so it is here: by whatever name.
  const auto own = blas();
  if (own.slow) return;
  void* openblas = nullptr;
  Dl_info where{};
  if (dladdr(reinterpret_cast<const void*>(own.sgemm), &where))
    openblas = dlopen(where.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  if (!openblas) return;
  visit_mlx_calls([&](const char* name, void** slot) {
    if (std::strncmp(name, "cblas_", 6) != 0) return;
    if (void* function = dlsym(openblas, name)) point_call(slot, function);
  });
}

#else

void prefer_openblas() {}

Blas answering() {
  return blas();
}

#endif

}  // namespace

void bind_blas(nb::module_& m) {
  prefer_openblas();
  prepare_for_limited_memory();
  m.def("blas", [] {
    const auto found = answering();
    return std::pair{found.name, found.slow};
  });
  m.def("better_kernels", [] { return better_kernels(answering()); });
  m.def("require_right_products", [] {
    if (mx::default_device() != mx::Device::cpu) return;
    require_right_products(answering());
    bound_blas_threads();
  });
}

}  // namespace mlxterp::python
