// analysis/random.h: random numbers that are the same on every machine.

#pragma once

#include <cstdint>
#include <random>
#include <utility>
#include <vector>

namespace mlxterp {

/** std::mt19937_64 is the same everywhere, the standard's distributions are
 * not. */
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}

  /** 0..n, exclusive; n of 1 at least. */
  size_t below(size_t n) {
    // Without what would make small numbers likelier.
    const uint64_t most = UINT64_MAX - UINT64_MAX % n;
    uint64_t x = engine_();
    while (x >= most)
      x = engine_();
    return static_cast<size_t>(x % n);
  }

  template <typename T>
  const T& one_of(const std::vector<T>& all) {
    return all[below(all.size())];
  }

  /** The first `n` become a random choice of all, in random order. */
  template <typename T>
  void shuffle(std::vector<T>& all, size_t n) {
    for (size_t i = 0; i < n && i < all.size(); ++i)
      std::swap(all[i], all[i + below(all.size() - i)]);
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace mlxterp
