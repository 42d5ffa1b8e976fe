// The fast BLAS on Linux, also where MLX was imported first. Python binds
// libmlx's calls when it loads it; their slots are pointed at OpenBLAS anew.

#include "mlxterp/core/blas.h"

#include "bind.h"
#include "core/limited_memory.h"

#ifdef __linux__
#include <dlfcn.h>

#include <cstring>
#include <string>

#include "core/mlx_calls.h"
#endif

namespace mlxterp::python {

namespace {

#ifdef __linux__

// The library that multiplies MLX's matrices; "" where that cannot be seen.
std::string answering() {
  std::string file;
  visit_mlx_calls([&](const char* name, void** slot) {
    Dl_info where{};
    if (std::strcmp(name, "cblas_sgemm") == 0 && dladdr(*slot, &where) &&
        where.dli_fname)
      file = where.dli_fname;
  });
  return file.substr(file.rfind('/') + 1);
}

bool is_reference(const std::string& file) {
  return file.starts_with("libblas") || file.starts_with("libmlx");
}

void prefer_openblas() {
  if (!is_reference(answering())) return;
  // This extension is linked against it, so it is here.
  void* openblas = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_NOLOAD);
  if (!openblas) return;
  visit_mlx_calls([&](const char* name, void** slot) {
    if (std::strncmp(name, "cblas_", 6) != 0) return;
    if (void* function = dlsym(openblas, name)) point_call(slot, function);
  });
}

std::pair<std::string, bool> found_blas() {
  const auto file = answering();
  if (is_reference(file)) return {"reference BLAS (" + file + ")", true};
  const auto found = blas();
  return {found.name, found.slow};
}

#else

void prefer_openblas() {}

std::pair<std::string, bool> found_blas() {
  const auto found = blas();
  return {found.name, found.slow};
}

#endif

}  // namespace

void bind_blas(nb::module_& m) {
  prefer_openblas();
  prepare_for_limited_memory();
  m.def("blas", &found_blas);
}

}  // namespace mlxterp::python
