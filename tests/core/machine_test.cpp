// How much memory this process may have.

#include "core/machine.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

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
