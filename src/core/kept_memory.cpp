#include "core/kept_memory.h"

#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>

#include <limits>
#include <mutex>
#endif

namespace mlxterp {

#ifdef __GLIBC__

namespace {

std::mutex alone;
int living = 0;

// From which size on memory is the system's own again when it is freed, and how
// much of the heap's end may lie idle.
void keep(int own, int idle) {
  mallopt(M_MMAP_THRESHOLD, own);
  mallopt(M_TRIM_THRESHOLD, idle);
}

}  // namespace

KeptMemory::KeptMemory() {
  const std::scoped_lock lock(alone);
  constexpr int all = std::numeric_limits<int>::max();
  if (living++ == 0) keep(all, all);
}

KeptMemory::~KeptMemory() {
  const std::scoped_lock lock(alone);
  if (--living > 0) return;
  // Where glibc's own adaptation ends, which large arrays reach at once.
  constexpr int most = 32 << 20;
  keep(most, 2 * most);
  malloc_trim(0);
}

#else

KeptMemory::KeptMemory() = default;
KeptMemory::~KeptMemory() = default;

#endif

}  // namespace mlxterp
