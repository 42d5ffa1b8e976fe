// A BLAS that adds up in another order at every call and from row to row, to be
// loaded before the right one: what a test may not lean on is bits that another
// processor, another number of threads or another version would not give again.
// Sums that are exact stay so.

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace {

using Sgemm = void(
    int,
    int,
    int,
    int,
    int,
    int,
    float,
    const float*,
    int,
    const float*,
    int,
    float,
    float*,
    int);

constexpr int no_transpose = 111;

// A number from 0 to `most`, another one each time.
int any(int most) {
  static std::atomic<uint64_t> count = 0;
  uint64_t x = ++count * 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return static_cast<int>((x >> 33) % (static_cast<uint64_t>(most) + 1));
}

}  // namespace

extern "C" void cblas_sgemm(
    int order,
    int turn_a,
    int turn_b,
    int m,
    int n,
    int k,
    float alpha,
    const float* a,
    int lda,
    const float* b,
    int ldb,
    float beta,
    float* c,
    int ldc) {
  static auto* const sgemm =
      reinterpret_cast<Sgemm*>(dlsym(RTLD_NEXT, "cblas_sgemm"));
  const auto times = [](int i, int stride) {
    return static_cast<ptrdiff_t>(i) * stride;
  };
  // Rows in up to four groups, each in two parts of k, the second part first.
  for (int row = 0; row < m;) {
    const int rows = std::max(1, std::min(m - row, any(m / 2 + 1)));
    const int cut = any(k);
    bool begun = false;
    for (const auto& [from, to] : {std::pair{cut, k}, {0, cut}}) {
      if (from == to && (begun || k > 0)) continue;
      sgemm(
          order,
          turn_a,
          turn_b,
          rows,
          n,
          to - from,
          alpha,
          a + (turn_a == no_transpose ? times(row, lda) + from
                                      : times(from, lda) + row),
          lda,
          b + (turn_b == no_transpose ? times(from, ldb) : from),
          ldb,
          begun ? 1.0f : beta,
          c + times(row, ldc),
          ldc);
      begun = true;
    }
    row += rows;
  }
}
