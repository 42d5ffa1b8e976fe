// How much memory and how many cores this process may have.

#include "core/machine.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/bad_input.h"
#include "tests/temp_folder.h"

namespace mlxterp {
namespace {

TEST(Machine, ALimitOfAnyGroupAboveCounts) {
  const testing::TempFolder root;
  root.write("memory.max", "max\n");
  root.write("user/memory.max", "3000000\n");
  root.write("user/session/memory.max", "max\n");
  root.write("memory/memory.limit_in_bytes", "9223372036854771712\n");
  root.write("memory/job/memory.limit_in_bytes", "2000000\n");
  root.write("memory/job/part/memory.limit_in_bytes", "5000000\n");
  const auto limit = [&](std::string_view groups) {
    return cgroup_memory(groups, root.path());
  };
  EXPECT_EQ(limit("0::/user/session\n"), 3'000'000u);
  EXPECT_EQ(limit("0::/user"), 3'000'000u);
  EXPECT_EQ(limit("0::/\n"), no_limit);
  EXPECT_EQ(limit("4:memory:/job/part\n0::/\n"), 2'000'000u);
  EXPECT_EQ(limit("4:cpu,memory:/job/part\n0::/user\n"), 2'000'000u);
  EXPECT_EQ(limit("4:cpu:/job\n"), no_limit);
  // A container's own name for its group is not there; its root is.
  root.write("memory.max", "7000000\n");
  EXPECT_EQ(limit("0::/elsewhere/x\n"), 7'000'000u);
  EXPECT_EQ(limit(""), no_limit);
  EXPECT_EQ(limit("nonsense\n:\n"), no_limit);
}

TEST(Machine, AContainersQuotaBoundsTheCores) {
  const testing::TempFolder root;
  const auto cores = [&](std::string_view groups) {
    return cgroup_cores(groups, root.path());
  };
  root.write("cpu.max", "max 100000\n");
  root.write("user/cpu.max", "250000 100000\n");
  root.write("user/session/cpu.max", "100000 50000\n");
  root.write("small/cpu.max", "10000 100000\n");
  root.write("cpu,cpuacct/job/cpu.cfs_quota_us", "400000\n");
  root.write("cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
  root.write("cpu,cpuacct/free/cpu.cfs_quota_us", "-1\n");
  root.write("cpu,cpuacct/free/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cores("0::/\n"), no_limit);
  EXPECT_EQ(cores("0::/user\n"), 3u);
  EXPECT_EQ(cores("0::/user/session\n"), 2u);
  EXPECT_EQ(cores("0::/small\n"), 1u);
  EXPECT_EQ(cores("5:cpu,cpuacct:/job\n"), 4u);
  EXPECT_EQ(cores("5:cpu,cpuacct:/free\n"), no_limit);
  EXPECT_EQ(cores("5:memory:/job\n"), no_limit);
  for (const char* text :
       {"", "max", "100000", "nonsense\n", "1 0\n", "0 1\n"}) {
    root.write("odd/cpu.max", text);
    EXPECT_EQ(cores("0::/odd\n"), no_limit) << text;
  }
  EXPECT_GE(usable_cores(), 1u);
  EXPECT_LE(usable_cores(), std::thread::hardware_concurrency());
  EXPECT_GE(free_cores(), 1u);
  EXPECT_LE(free_cores(), usable_cores());
}

#ifdef __linux__
TEST(Machine, CoresOutsideTheAffinityMaskAreNotUsable) {
  cpu_set_t all, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(all), &all), 0);
  CPU_ZERO(&one);
  for (int core = 0; CPU_COUNT(&one) == 0; ++core)
    if (CPU_ISSET(core, &all)) CPU_SET(core, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(usable_cores(), 1u);
  ASSERT_EQ(sched_setaffinity(0, sizeof(all), &all), 0);
}
#endif

TEST(Machine, WhatOthersLeaveIsCounted) {
  EXPECT_TRUE(busy_lately("2.10 1.00 0.50 3/397 12345\n"));
  EXPECT_FALSE(busy_lately("0.20 1.00 0.50 9/397 12345\n"));
  for (const char* text : {"", "x", "-1 0 0 3/9 1", "nan 0 0 3/9 1"})
    EXPECT_FALSE(busy_lately(text)) << text;
  EXPECT_EQ(
      busy_ticks("cpu  100 20 3 5000 600 7 8 9 50 1\ncpu0 1 1 1 1\n"),
      100u + 20 + 3 + 7 + 8 + 9);
  EXPECT_EQ(busy_ticks("cpu  1 2 3 4\n"), 6u);
  for (const char* text : {"", "cpu0 1 2 3 4", "intr 5", "cpu x"})
    EXPECT_EQ(busy_ticks(text), 0u) << text;
  EXPECT_EQ(cores_left(2, 2, 0.1), 2u);
  EXPECT_EQ(cores_left(2, 2, 0.9), 1u);
  EXPECT_EQ(cores_left(2, 2, 2.0), 1u);
  EXPECT_EQ(cores_left(2, 2, -0.2), 2u);
  // A container with two cores of a large machine.
  EXPECT_EQ(cores_left(2, 64, 10), 2u);
  EXPECT_EQ(cores_left(8, 64, 60), 4u);
  EXPECT_EQ(cores_left(1, 64, 64), 1u);
}

#ifdef __linux__
TEST(Machine, OnesOwnThreadsTakeNoCoresFromOneself) {
  // As many as it has, for a moment: what is left is what others leave.
  std::atomic<bool> done = false;
  std::vector<std::thread> threads;
  for (size_t i = 0; i < usable_cores(); ++i)
    threads.emplace_back([&] {
      while (!done) {
      }
    });
  const auto cores = free_cores();
  done = true;
  for (auto& thread : threads)
    thread.join();
  EXPECT_GE(cores, 1u);
  EXPECT_LE(cores, usable_cores());
}
#endif

#ifndef MLXTERP_ADDRESS_SANITIZER
TEST(Machine, TheAddressSpaceCounts) {
  EXPECT_GT(machine_memory(), size_t{1} << 28);
  testing::expect_accepted([] {
    const rlim_t bytes = rlim_t{3} << 30;
    const struct rlimit limit { bytes, bytes };
    ::setrlimit(RLIMIT_AS, &limit);
    const auto left = address_space_left();
    return machine_memory() <= bytes && left < bytes && left > 0
               ? "fine"
               : throw std::runtime_error("the limit is not seen");
  });
}
#endif

}  // namespace
}  // namespace mlxterp
