// core/machine.h: what this machine is. The one file that knows operating
// systems is machine.cpp.

#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string_view>

namespace mlxterp {

inline constexpr size_t no_limit = ~size_t{0};

/** Bytes of memory this process may have: the machine's, its container's, or
 * what `ulimit -v` allows. */
size_t machine_memory();

/** What `ulimit -v` leaves to be mapped, or no_limit. */
size_t address_space_left();

/** Whether this is the thread that the process began with. */
bool on_main_thread();

/** Cores that this process may use: those of its affinity mask, or fewer where
 * its container has a quota; at least 1. */
size_t usable_cores();

/** How many of these cores other processes leave alone, from its making on. */
class CoreWatch {
 public:
  CoreWatch();
  /** At least 1. Where the minute before was quiet all of them at once, else
   * those of the time since; waits until that is a twentieth of a second. */
  size_t free() const;

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin_ = Clock::now();
  uint64_t before_ = 0;  // ticks; 0: all are free
  long own_before_ = 0;
};

/** The same from now on. */
size_t free_cores();

/** The least limit that Linux's control groups set a process, or no_limit:
 * bytes, and cores (rounded up). `groups` is its /proc/self/cgroup, `root`
 * where they are mounted. */
size_t cgroup_memory(
    std::string_view groups, const std::filesystem::path& root);
size_t cgroup_cores(std::string_view groups, const std::filesystem::path& root);

/** Whether somebody else may have been busy in the last minute, by Linux's
 * /proc/loadavg. This process' own work is in it, too. */
bool busy_lately(std::string_view loadavg);

/** Ticks in which the machine's cores, all together, were busy since it began,
 * or taken by others on its host: the first line of Linux's /proc/stat. 0 where
 * it does not say. */
uint64_t busy_ticks(std::string_view stat);

/** How many of `usable` cores are left where others kept `busy` of the
 * machine's `online` ones: nobody knows which, so those that this process may
 * not use are theirs first. At least 1. */
size_t cores_left(size_t usable, size_t online, double busy);

}  // namespace mlxterp
