#include "core/mlx_calls.h"

#ifdef __linux__
#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#endif

namespace mlxterp {

#ifdef __linux__

namespace {

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

}  // namespace

void visit_mlx_calls(const VisitCall& visit) {
  const auto library = [](dl_phdr_info* info, size_t, void* data) {
    if (!std::strstr(info->dlpi_name, "/libmlx.so")) return 0;
    const auto tables = tables_of(*info);
    if (!tables.calls || !tables.symbols || !tables.names) return 1;
    for (size_t i = 0; i < tables.n_calls; ++i) {
      const auto& call = tables.calls[i];
      const auto& symbol = tables.symbols[ELF64_R_SYM(call.r_info)];
      (*static_cast<const VisitCall*>(data))(
          tables.names + symbol.st_name,
          reinterpret_cast<void**>(info->dlpi_addr + call.r_offset));
    }
    return 1;
  };
  dl_iterate_phdr(library, const_cast<VisitCall*>(&visit));
}

void point_call(void** slot, void* function) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(slot) & ~(page - 1);
  // A slot never crosses pages: it is as aligned as it is large.
  if (mprotect(reinterpret_cast<void*>(begin), page, PROT_READ | PROT_WRITE) ==
      0)
    *slot = function;
}

#else

void visit_mlx_calls(const VisitCall&) {}
void point_call(void**, void*) {}

#endif

}  // namespace mlxterp
