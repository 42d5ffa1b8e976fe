#include "core/machine.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/resource.h>
#ifndef __APPLE__
#include <sched.h>
#include <sys/syscall.h>
#endif
#include <sys/times.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <fstream>
#include <locale>
#include <sstream>
#include <string>
#include <thread>

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

// "max", "-1", and what is no number at all, is no limit.
size_t limit_of(std::string_view text) {
  size_t limit = 0;
  const auto parsed =
      std::from_chars(text.data(), text.data() + text.size(), limit);
  return parsed.ec == std::errc() && limit > 0 ? limit : no_limit;
}

size_t limit_in(const fs::path& file) {
  return limit_of(small_text(file));
}

// "150000 100000", of which period the group may run so long: cores, rounded
// up.
size_t cores_in(size_t quota, size_t period) {
  return quota == no_limit || period == no_limit
             ? no_limit
             : (quota + period - 1) / period;
}

// Of version 2's one tree, and of a controller's own in version 1.
struct Controller {
  std::string_view name;
  size_t (*unified)(const fs::path& folder);
  size_t (*own)(const fs::path& folder);
};

constexpr Controller memory{
    "memory",
    [](const fs::path& folder) { return limit_in(folder / "memory.max"); },
    [](const fs::path& folder) {
      return limit_in(folder / "memory.limit_in_bytes");
    }};

constexpr Controller cpu{
    "cpu",
    [](const fs::path& folder) {
      const auto text = small_text(folder / "cpu.max");
      const auto gap = std::min(text.find(' '), text.size());
      const auto period = std::string_view(text).substr(gap);
      return cores_in(limit_of(text), limit_of(period.substr(!period.empty())));
    },
    [](const fs::path& folder) {
      return cores_in(
          limit_in(folder / "cpu.cfs_quota_us"),
          limit_in(folder / "cpu.cfs_period_us"));
    }};

// A group has no more than any of those it lies in. Seen from inside a
// container the path may lead to nowhere, but then the root is its group.
size_t limit_of_group(
    const fs::path& root,
    const fs::path& group,
    size_t (*limit_in)(const fs::path& folder)) {
  size_t limit = limit_in(root);
  auto folder = root;
  for (const auto& part : group.relative_path()) {
    folder /= part;
    limit = std::min(limit, limit_in(folder));
  }
  return limit;
}

size_t least_limit(
    const Controller& controller,
    std::string_view groups,
    const fs::path& root) {
  size_t limit = no_limit;
  while (!groups.empty()) {
    const auto end = std::min(groups.find('\n'), groups.size());
    const auto line = groups.substr(0, end);
    groups.remove_prefix(std::min(end + 1, groups.size()));
    // number:controllers:path
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    const auto names = line.substr(first + 1, second - first - 1);
    const fs::path group(line.substr(second + 1));
    if (names.empty()) {  // version 2, which has one tree
      for (const auto& tree : {root, root / "unified"})
        limit =
            std::min(limit, limit_of_group(tree, group, controller.unified));
    } else if (
        fmt::format(",{},", names).find(fmt::format(",{},", controller.name)) !=
        std::string::npos) {
      // Its folder is called after all that share it, and after each of them.
      for (const auto& name : {controller.name, names})
        limit =
            std::min(limit, limit_of_group(root / name, group, controller.own));
    }
  }
  return limit;
}

#ifndef __APPLE__
long own_ticks() {
  tms used{};
  times(&used);
  return used.tms_utime + used.tms_stime;
}
#endif

}  // namespace

size_t cgroup_memory(std::string_view groups, const fs::path& root) {
  return least_limit(memory, groups, root);
}

size_t cgroup_cores(std::string_view groups, const fs::path& root) {
  return least_limit(cpu, groups, root);
}

size_t usable_cores() {
  size_t cores = 0;
#ifdef __linux__
  // Some of glibc's hardware_concurrency() read a file each time, which takes
  // longer than a small loop, and know no mask.
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0)
    cores = static_cast<size_t>(CPU_COUNT(&mask));
#endif
  if (cores == 0) cores = std::max(std::thread::hardware_concurrency(), 1u);
#ifndef __APPLE__
  static const size_t quota =
      cgroup_cores(small_text("/proc/self/cgroup"), "/sys/fs/cgroup");
  cores = std::min(cores, quota);
#endif
  return cores;
}

bool busy_lately(std::string_view loadavg) {
  // "0.52 0.58 0.59 3/397 12345": means of 1, 5 and 15 minutes, ...
  std::istringstream text{std::string(loadavg)};
  double minute = 0;
  text.imbue(std::locale::classic());
  return text >> minute && minute >= 0.5;
}

uint64_t busy_ticks(std::string_view stat) {
  // "cpu  user nice system idle iowait irq softirq steal guest guest_nice";
  // guests are in user and nice.
  constexpr size_t idle = 3, iowait = 4, steal = 7;
  std::istringstream text{std::string(stat.substr(0, stat.find('\n')))};
  text.imbue(std::locale::classic());
  std::string name;
  if (!(text >> name) || name != "cpu") return 0;
  uint64_t busy = 0, ticks = 0;
  for (size_t i = 0; i <= steal && text >> ticks; ++i)
    if (i != idle && i != iowait) busy += ticks;
  return busy;
}

size_t cores_left(size_t usable, size_t online, double busy) {
  const auto taken = static_cast<size_t>(std::lround(std::max(busy, 0.0)));
  const size_t left = online > taken ? online - taken : 0;
  return std::clamp<size_t>(left, 1, std::max<size_t>(usable, 1));
}

CoreWatch::CoreWatch() {
#ifndef __APPLE__
  if (usable_cores() < 2 || !busy_lately(small_text("/proc/loadavg"))) return;
  before_ = busy_ticks(small_text("/proc/stat"));
  own_before_ = own_ticks();
#endif
}

size_t CoreWatch::free() const {
  const size_t cores = usable_cores();
#ifndef __APPLE__
  if (before_ == 0) return cores;
  // A task that runs at this very moment may be done the next, and is perhaps
  // a thread of this process: what counts is whose time passes.
  constexpr auto least = std::chrono::milliseconds(50);
  std::this_thread::sleep_until(begin_ + least);
  const auto after = busy_ticks(small_text("/proc/stat"));
  const auto own_after = own_ticks();
  if (after < before_) return cores;
  const double ticks =
      std::chrono::duration<double>(Clock::now() - begin_).count() *
      static_cast<double>(sysconf(_SC_CLK_TCK));
  const double busy = static_cast<double>(after - before_) -
                      static_cast<double>(own_after - own_before_);
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  return cores_left(
      cores,
      std::max(cores, static_cast<size_t>(std::max(online, 1L))),
      busy / ticks);
#else
  static_cast<void>(begin_);
  static_cast<void>(before_);
  static_cast<void>(own_before_);
  return cores;
#endif
}

size_t free_cores() {
  return CoreWatch().free();
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
