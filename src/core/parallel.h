// core/parallel.h: splits a loop over the machine's cores.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>

#include "core/machine.h"

namespace mlxterp {

/**
 * Calls `part` of 0 .. parts - 1, each once, on this thread and on others that
 * wait for work: one to a core at most, made when first wanted, which stay. It
 * waits for none that does not come: where they are all busy, with another
 * loop or with the one this is part of, this thread does all of it. `part` must
 * not throw.
 */
void share_parts(size_t parts, const std::function<void(size_t)>& part);

/** Calls `part(begin, end)` for stretches that cover 0..n, at most one a core
 * and `most`, at least `least` long but for the last. Throws, when all have
 * ended, what the first of them threw that did. */
template <typename Part>
void split_over_cores(
    size_t n, size_t least, const Part& part, size_t most = no_limit) {
  constexpr size_t enough = 16;  // memory is the limit before that
  const size_t wanted =
      std::min({n / std::max<size_t>(least, 1), most, enough});
  const size_t parts =
      wanted > 1 ? std::clamp<size_t>(usable_cores(), 1, wanted) : 1;
  if (parts == 1) return part(size_t{0}, n);
  std::exception_ptr first;
  std::atomic_flag failed;
  const auto guarded = [&](size_t i) {
    try {
      part(n * i / parts, n * (i + 1) / parts);
    } catch (...) {  // thrown again below, when all have ended
      if (!failed.test_and_set()) first = std::current_exception();
    }
  };
  share_parts(parts, std::ref(guarded));
  if (first) std::rethrow_exception(first);
}

}  // namespace mlxterp
