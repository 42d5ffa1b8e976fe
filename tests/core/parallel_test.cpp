#include "core/parallel.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

namespace mlxterp {
namespace {

// How often each number of 0..n came.
std::vector<int> counts(size_t n, size_t least, size_t most = no_limit) {
  std::vector<std::atomic<int>> all(n);
  split_over_cores(
      n,
      least,
      [&](size_t begin, size_t end) {
        for (size_t i = begin; i < end; ++i)
          ++all[i];
      },
      most);
  return {all.begin(), all.end()};
}

TEST(Parallel, EveryNumberOnce) {
  size_t counted = 0;
  for (size_t n = 0; n < 70; ++n)
    for (const size_t least : {size_t{0}, size_t{1}, size_t{3}, size_t{100}})
      for (const size_t most : {size_t{0}, size_t{1}, size_t{2}, no_limit}) {
        EXPECT_EQ(counts(n, least, most), std::vector<int>(n, 1));
        ++counted;
      }
  EXPECT_EQ(counted, 1120);
}

TEST(Parallel, PartsAreAtMostAsManyAsAskedFor) {
  for (const size_t parts : {1, 2, 3, 16, 40}) {
    std::vector<std::atomic<int>> all(parts);
    share_parts(parts, [&](size_t i) { ++all[i]; });
    for (const auto& one : all)
      EXPECT_EQ(one, 1);
  }
  std::mutex alone;
  std::set<std::pair<size_t, size_t>> stretches;
  split_over_cores(
      10,
      1,
      [&](size_t begin, size_t end) {
        const std::scoped_lock lock(alone);
        stretches.emplace(begin, end);
      },
      2);
  EXPECT_LE(stretches.size(), 2u);
}

TEST(Parallel, ManyShortLoopsOneAfterTheOther) {
  for (int i = 0; i < 20000; ++i) {
    std::atomic<size_t> sum = 0;
    share_parts(4, [&](size_t part) { sum += part + 1; });
    ASSERT_EQ(sum, 10u) << i;
  }
}

TEST(Parallel, AnotherThreadTakesParts) {
  std::mutex door;
  std::condition_variable met;
  size_t here = 0;
  // Two parts that wait for each other: one thread alone would time out.
  std::atomic<int> alone = 0;
  share_parts(2, [&](size_t) {
    std::unique_lock lock(door);
    ++here;
    met.notify_all();
    const auto patience = std::chrono::seconds(60);
    if (!met.wait_for(lock, patience, [&] { return here == 2; })) ++alone;
  });
  EXPECT_EQ(alone, 0);
}

TEST(Parallel, LoopsInLoopsAndFromManyThreads) {
  std::vector<std::thread> threads;
  std::atomic<size_t> right = 0;
  for (int i = 0; i < 6; ++i)
    threads.emplace_back([&] {
      for (int round = 0; round < 200; ++round) {
        std::atomic<size_t> sum = 0;
        split_over_cores(8, 1, [&](size_t begin, size_t end) {
          for (size_t j = begin; j < end; ++j)
            split_over_cores(
                5, 1, [&](size_t from, size_t to) { sum += to - from; });
        });
        right += sum == 40;
      }
    });
  for (auto& thread : threads)
    thread.join();
  EXPECT_EQ(right, 1200u);
}

TEST(Parallel, TheFirstErrorIsThrownWhenAllHaveEnded) {
  for (int round = 0; round < 100; ++round) {
    std::atomic<size_t> ended = 0;
    EXPECT_THROW(
        split_over_cores(
            8,
            1,
            [&](size_t begin, size_t end) {
              ended += end - begin;
              throw std::runtime_error("broken");
            }),
        std::runtime_error);
    EXPECT_EQ(ended, 8u);
    EXPECT_EQ(counts(9, 1), std::vector<int>(9, 1));
  }
}

// The threads that wait are not there after a fork.
TEST(Parallel, AForkedProcessGoesOn) {
  EXPECT_EQ(counts(64, 1), std::vector<int>(64, 1));
  const pid_t child = fork();
  if (child == 0) {
    for (int i = 0; i < 10; ++i)
      if (counts(64, 1) != std::vector<int>(64, 1)) _exit(1);
    _exit(0);
  }
  ASSERT_GT(child, 0);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace mlxterp
