// core/kept_memory.h: memory that is freed stays at hand.

#pragma once

namespace mlxterp {

/**
 * While one lives, what is freed is not given back to the system: arrays of
 * many megabytes that come and go would take new pages each time, which are
 * cleared first. At the end all of it goes back. glibc's malloc only; elsewhere
 * nothing happens.
 */
class KeptMemory {
 public:
  KeptMemory();
  ~KeptMemory();
  KeptMemory(const KeptMemory&) = delete;
  KeptMemory& operator=(const KeptMemory&) = delete;
};

}  // namespace mlxterp
