// io/parallel.h: splits a loop over the machine's cores.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

#include "core/machine.h"

namespace mlxterp {

/** Calls `part(begin, end)` for stretches that cover 0..n, at most one a core
 * and `most`, at least `least` long but for the last. Throws, when all have
 * ended, what the first of them threw that did. */
template <typename Part>
void split_over_cores(
    size_t n, size_t least, const Part& part, size_t most = no_limit) {
  constexpr size_t enough = 16;  // memory is the limit before that
  const size_t cores = std::min({usable_cores(), most, enough});
  const size_t parts =
      std::clamp<size_t>(n / std::max<size_t>(least, 1), 1, cores);
  std::exception_ptr first;
  std::atomic_flag failed;
  const auto guarded = [&](size_t begin, size_t end) {
    try {
      part(begin, end);
    } catch (...) {  // thrown again below, when all threads have ended
      if (!failed.test_and_set()) first = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(parts);
  for (size_t i = 1; i < parts; ++i) {
    const size_t begin = n * i / parts;
    const size_t end = n * (i + 1) / parts;
    try {
      threads.emplace_back([&guarded, begin, end] { guarded(begin, end); });
    } catch (const std::system_error&) {
      guarded(begin, end);  // no more threads to be had
    }
  }
  guarded(size_t{0}, n / parts);
  for (auto& thread : threads)
    thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace mlxterp
