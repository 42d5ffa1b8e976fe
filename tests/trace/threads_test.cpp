// A process whose threads have traced ends as it should. Each in a process of
// its own, several times: how threads end is a matter of luck.

#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>
#include <vector>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlxterp/trace/model.h"
#include "tests/tiny_model.h"

namespace mlxterp {
namespace {

void trace(const InterpretableModel& model) {
  auto trace = model.trace(
      std::vector<int>{3, 14, 15},
      {{"layers.0.resid_post", [](const mlx::core::array& x, const SiteView&) {
          return x + mlx::core::random::normal(x.shape());
        }}});
  const auto saved = model.output().save();
  trace.finish();
  if (saved.value().size() == 0) std::exit(1);
}

[[noreturn]] void trace_on_threads_and_exit() {
  const auto model = test::tiny_model();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] { trace(model); });
  for (auto& thread : threads)
    thread.join();
  std::exit(0);
}

TEST(Threads, TheProcessEndsWell) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (int i = 0; i < 8; ++i)
    EXPECT_EXIT(trace_on_threads_and_exit(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace mlxterp
