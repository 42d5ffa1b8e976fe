// core/machine.h: what this machine is. The one file that knows operating
// systems is machine.cpp.

#pragma once

#include <cstddef>
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

/** How many of these cores nothing else was busy on, now and in the last
 * minute; at least 1. */
size_t free_cores();

/** The least limit that Linux's control groups set a process, or no_limit:
 * bytes, and cores (rounded up). `groups` is its /proc/self/cgroup, `root`
 * where they are mounted. */
size_t cgroup_memory(
    std::string_view groups, const std::filesystem::path& root);
size_t cgroup_cores(std::string_view groups, const std::filesystem::path& root);

/** Tasks of others that run or wait for a core, by Linux's /proc/loadavg: the
 * fewer of those now and of the mean of the last minute. */
size_t others_running(std::string_view loadavg);

}  // namespace mlxterp
