#include "core/machine.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/resource.h>
#ifndef __APPLE__
#include <sys/syscall.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <string>

namespace mlxterp {

namespace {

namespace fs = std::filesystem;

std::string small_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text(65'536, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  return text;
}

// "max", and what is no number at all, is no limit.
size_t limit_in(const fs::path& file) {
  const auto text = small_text(file);
  size_t limit = 0;
  const auto parsed =
      std::from_chars(text.data(), text.data() + text.size(), limit);
  return parsed.ec == std::errc() && limit > 0 ? limit : no_limit;
}

// A group has no more than any of those it lies in. Seen from inside a
// container the path may lead to nowhere, but then the root is its group.
size_t limit_of_group(
    const fs::path& root, const fs::path& group, const char* file) {
  size_t limit = limit_in(root / file);
  auto folder = root;
  for (const auto& part : group.relative_path()) {
    folder /= part;
    limit = std::min(limit, limit_in(folder / file));
  }
  return limit;
}

}  // namespace

size_t cgroup_memory(std::string_view groups, const fs::path& root) {
  size_t limit = no_limit;
  while (!groups.empty()) {
    const auto end = std::min(groups.find('\n'), groups.size());
    const auto line = groups.substr(0, end);
    groups.remove_prefix(std::min(end + 1, groups.size()));
    // number:controllers:path
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    const auto controllers = line.substr(first + 1, second - first - 1);
    const fs::path group(line.substr(second + 1));
    if (controllers.empty())  // version 2, which has one tree
      for (const auto& tree : {root, root / "unified"})
        limit = std::min(limit, limit_of_group(tree, group, "memory.max"));
    else if (
        fmt::format(",{},", controllers).find(",memory,") != std::string::npos)
      limit = std::min(
          limit,
          limit_of_group(root / "memory", group, "memory.limit_in_bytes"));
  }
  return limit;
}

size_t machine_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
  auto bytes = static_cast<size_t>(pages) * static_cast<size_t>(size);
#ifndef __APPLE__
  bytes = std::min(
      bytes, cgroup_memory(small_text("/proc/self/cgroup"), "/sys/fs/cgroup"));
#endif
  struct rlimit limit {};
  if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    bytes = std::min(bytes, static_cast<size_t>(limit.rlim_cur));
  return bytes;
}

size_t address_space_left() {
  struct rlimit limit {};
  if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
    return no_limit;
  // In pages; where there is no such file, nothing is known to be used.
  const auto text = small_text("/proc/self/statm");
  size_t used = 0;
  std::from_chars(text.data(), text.data() + text.size(), used);
  used *= static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto all = static_cast<size_t>(limit.rlim_cur);
  return all - std::min(used, all);
}

bool on_main_thread() {
#ifdef __APPLE__
  return pthread_main_np() != 0;
#else
  return syscall(SYS_gettid) == getpid();
#endif
}

}  // namespace mlxterp
