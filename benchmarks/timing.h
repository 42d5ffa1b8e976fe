// benchmarks/timing.h: how long something takes, on prompts that say nothing.

#pragma once

#include <chrono>
#include <vector>

namespace mlxterp::bench {

template <typename F>
double seconds(const F& f) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  f();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/** Ids below 30,000, the same for the same seed. */
inline std::vector<int> prompt(int length, int seed) {
  std::vector<int> ids;
  for (int i = 0; i < length; ++i)
    ids.push_back((seed + 7919 * (i + 1) * seed) % 30000);
  return ids;
}

}  // namespace mlxterp::bench
