// The fast BLAS on Linux, also where MLX was imported first. Python binds
// libmlx's calls when it loads it; their slots are pointed at OpenBLAS anew.
// And whether what answers multiplies rightly.

#include "mlxterp/core/blas.h"

#include "bind.h"
#include "mlx/device.h"

#ifdef __linux__
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <string>
#endif

namespace mlxterp::python {

namespace {

#ifdef __linux__

// Tables of a loaded library; the loader leaves addresses in it absolute.
struct Tables {
  const ElfW(Rela) * calls = nullptr;
  size_t n_calls = 0;
  const ElfW(Sym) * symbols = nullptr;
  const char* names = nullptr;
};

Tables tables_of(const dl_phdr_info& library) {
  Tables found;
  for (int i = 0; i < library.dlpi_phnum; ++i) {
    const auto& header = library.dlpi_phdr[i];
    if (header.p_type != PT_DYNAMIC) continue;
    const auto* entry =
        reinterpret_cast<const ElfW(Dyn)*>(library.dlpi_addr + header.p_vaddr);
    for (; entry->d_tag != DT_NULL; ++entry) {
      const auto address = entry->d_un.d_ptr;
      if (entry->d_tag == DT_JMPREL)
        found.calls = reinterpret_cast<const ElfW(Rela)*>(address);
      if (entry->d_tag == DT_PLTRELSZ)
        found.n_calls = entry->d_un.d_val / sizeof(ElfW(Rela));
      if (entry->d_tag == DT_SYMTAB)
        found.symbols = reinterpret_cast<const ElfW(Sym)*>(address);
      if (entry->d_tag == DT_STRTAB)
        found.names = reinterpret_cast<const char*>(address);
    }
  }
  return found;
}

// Where libmlx's calls of BLAS lead: a name and its slot at a time.
using Visit = std::function<void(const char* name, void** slot)>;

void visit_calls(const Visit& visit) {
  const auto library = [](dl_phdr_info* info, size_t, void* data) {
    if (!std::strstr(info->dlpi_name, "/libmlx.so")) return 0;
    const auto tables = tables_of(*info);
    if (!tables.calls || !tables.symbols || !tables.names) return 1;
    for (size_t i = 0; i < tables.n_calls; ++i) {
      const auto& call = tables.calls[i];
      const auto& symbol = tables.symbols[ELF64_R_SYM(call.r_info)];
      const char* name = tables.names + symbol.st_name;
      if (std::strncmp(name, "cblas_", 6) == 0)
        (*static_cast<const Visit*>(data))(
            name, reinterpret_cast<void**>(info->dlpi_addr + call.r_offset));
    }
    return 1;
  };
  dl_iterate_phdr(library, const_cast<Visit*>(&visit));
}

// What multiplies MLX's matrices. A slot that was never called yet leads into
// libmlx itself.
Blas answering() {
  Sgemm* sgemm = nullptr;
  visit_calls([&](const char* name, void** slot) {
    if (std::strcmp(name, "cblas_sgemm") == 0)
      sgemm = reinterpret_cast<Sgemm*>(*slot);
  });
  // Not there: libmlx binds its calls otherwise, to the first in the order.
  return sgemm ? blas_of(sgemm) : blas();
}

void point(void** slot, void* function) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(slot) & ~(page - 1);
  // A slot never crosses pages: it is as aligned as it is large.
  if (mprotect(reinterpret_cast<void*>(begin), page, PROT_READ | PROT_WRITE) ==
      0)
    *slot = function;
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
  visit_calls([&](const char* name, void** slot) {
    if (void* function = dlsym(openblas, name)) point(slot, function);
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
  m.def("blas", [] {
    const auto found = answering();
    return std::pair{found.name, found.slow};
  });
  m.def("require_right_products", [] {
    if (mx::default_device() == mx::Device::cpu)
      require_right_products(answering());
  });
}

}  // namespace mlxterp::python
