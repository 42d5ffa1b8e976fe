// How much memory and how many cores this process may have.

#include "core/machine.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <thread>

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

TEST(Machine, OthersRunOnlyWhereTheyDoNowAndDid) {
  EXPECT_EQ(others_running("2.10 1.00 0.50 3/397 12345\n"), 2u);
  EXPECT_EQ(others_running("0.20 1.00 0.50 9/397 12345\n"), 0u);
  EXPECT_EQ(others_running("8.00 1.00 0.50 1/397 12345\n"), 0u);
  EXPECT_EQ(others_running("8.00 7.00 6.50 5/397 12345\n"), 4u);
  for (const char* text : {"", "x", "1 2", "-1 0 0 3/9 1", "nan 0 0 3/9 1"})
    EXPECT_EQ(others_running(text), 0u) << text;
}

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
