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

/** The least limit that Linux's control groups set a process. `groups` is its
 * /proc/self/cgroup, `root` where they are mounted. */
size_t cgroup_memory(
    std::string_view groups, const std::filesystem::path& root);

}  // namespace mlxterp
