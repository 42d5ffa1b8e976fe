#include "core/machine.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>

#include "mlxterp/core/blas.h"

namespace mlxterp {

size_t machine_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
  auto bytes = static_cast<size_t>(pages) * static_cast<size_t>(size);
  // A container's own limit, as both kinds of Linux control groups give it.
  for (const char* file :
       {"/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes"})
    if (size_t limit = 0; std::ifstream(file) >> limit && limit > 0)
      bytes = std::min(bytes, limit);
  return bytes;
}

Blas blas() {
#ifdef __APPLE__
  return {"Accelerate", false};
#else
  // The first cblas_sgemm in the search order is the one MLX calls.
  const auto* sgemm = dlsym(RTLD_DEFAULT, "cblas_sgemm");
  Dl_info where{};
  if (!sgemm || !dladdr(sgemm, &where) || !where.dli_fname)
    return {"unknown", true};
  const auto file = std::filesystem::path(where.dli_fname).filename().string();
  using Text = char* (*)();
  const auto ask = [](const char* function) -> std::string {
    const auto call = reinterpret_cast<Text>(dlsym(RTLD_DEFAULT, function));
    return call ? call() : "";
  };
  if (file.find("openblas") != std::string::npos) {
    // "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ...": the first two words.
    const auto config = ask("openblas_get_config");
    const auto end = config.find(' ', config.find(' ') + 1);
    return {
        config.substr(0, end) + " (" + ask("openblas_get_corename") + ")",
        false};
  }
  const bool fast = file.find("mkl") != std::string::npos ||
                    file.find("blis") != std::string::npos;
  return {fast ? file : "reference BLAS (" + file + ")", !fast};
#endif
}

}  // namespace mlxterp
