// The k largest of rows, and sums of chosen rows of a matrix: what MLX's own
// operations sort whole rows, or hold every chosen row, for. As the kernels of
// nn/cuda: scripts/make_ptx.sh turns it into sparse_rows_ptx.h.

#include "../../nn/cuda/device.h"
#include "../../nn/cuda/numbers.h"

SPECIAL(threads, "%%ntid.x")

// Larger for larger numbers.
DEVICE u32 key_of(float x) {
  const u32 bits = __builtin_bit_cast(u32, x);
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}

DEVICE int counted(SHARED int* counter) {
  int before;
  asm volatile("atom.shared.add.u32 %0, [%1], 1;"
               : "=r"(before)
               : "r"((u32)(unsigned long)counter)
               : "memory");
  return before;
}

// Numbers of a row from column c on, times those of `by` if `ranked`.
template <typename T>
DEVICE Eight ranks(const T* row, const float* by, int c, int ranked) {
  Eight x = eight(row + c);
  if (!ranked) return x;
  const Eight factor = eight(by + c);
#pragma unroll
  for (int i = 0; i < 8; ++i)
    x.at[i] *= factor.at[i];
  return x;
}

// Descending, n a power of two.
template <typename T>
DEVICE void sort(SHARED T* x, int n) {
  for (int size = 2; size <= n; size *= 2)
    for (int apart = size / 2; apart > 0; apart /= 2) {
      wait_for_others();
      for (int i = thread(); i < n; i += threads()) {
        const int other = i ^ apart;
        if (other < i) continue;
        const T a = x[i], b = x[other];
        if ((a < b) == ((i & size) == 0)) {
          x[i] = b;
          x[other] = a;
        }
      }
    }
  wait_for_others();
}

constexpr int most = 2048;  // candidates of a row

// Those, a key of each group and a counter.
extern __attribute__((shared)) u64 places_of_row[];

// Of each row of pre [rows, width], a block of 256 threads each, the
// k <= 256 * each largest of pre, or of pre * by if `ranked`, the largest first
// and of equal ones the first: their columns and pre's numbers there. width is a
// multiple of 8.
template <int each, typename T>
DEVICE void top_of_rows(
    const T* pre,
    const float* by,
    int* cols,
    float* values,
    int width,
    int k,
    int ranked) {
  constexpr int groups = 256 * each;
  SHARED u64* found = (SHARED u64*)places_of_row;
  SHARED u32* of_groups = (SHARED u32*)(found + most);
  SHARED int* counter = (SHARED int*)(of_groups + groups);
  const T* row = pre + (long long)block_x() * width;

  // Calls take(key, column, which of the eight).
  const auto over_row = [&](const auto& take) {
#pragma clang loop unroll(disable)
    for (int c = thread() * 8; c < width; c += 8 * 256) {
      const Eight x = ranks(row, by, c, ranked);
#pragma unroll
      for (int i = 0; i < 8; ++i)
        take(key_of(x.at[i]), c + i, i);
    }
  };
  // Unique, and larger for what comes before.
  const auto place = [](u32 key, int column) {
    return (u64)key << 32 | (0xffffffffu - (u32)column);
  };
  // k groups have something as large as the k-th of their maxima: nothing
  // smaller is among the k largest of all.
  u32 largest[each] = {};
  over_row([&](u32 key, int, int i) {
    u32& own = largest[i % each];
    own = key > own ? key : own;
  });
#pragma unroll
  for (int g = 0; g < each; ++g)
    of_groups[g * 256 + thread()] = largest[g];
  if (thread() == 0) *counter = 0;
  sort(of_groups, groups);
  u64 smallest = (u64)of_groups[k - 1] << 32;
  int n;
  for (;;) {
    over_row([&](u32 key, int column, int) {
      const u64 it = place(key, column);
      if (it >= smallest) {
        const int at = counted(counter);
        if (at < most) found[at] = it;
      }
    });
    wait_for_others();
    n = *counter;
    if (n <= most) break;
    // Many are alike: the k-th of all, bit by bit.
    smallest = 0;
    for (int bit = 63; bit >= 0; --bit) {
      const u64 tried = smallest | (u64)1 << bit;
      wait_for_others();
      if (thread() == 0) *counter = 0;
      wait_for_others();
      over_row([&](u32 key, int column, int) {
        if (place(key, column) >= tried) counted(counter);
      });
      wait_for_others();
      if (*counter >= k) smallest = tried;
    }
    wait_for_others();
    if (thread() == 0) *counter = 0;
    wait_for_others();
  }
  int room = 2;
  while (room < n)
    room *= 2;
  for (int i = n + thread(); i < room; i += 256)
    found[i] = 0;
  sort(found, room);
  const long long to = (long long)block_x() * k;
  for (int i = thread(); i < k; i += 256) {
    const int column = (int)(0xffffffffu - (u32)found[i]);
    cols[to + i] = column;
    values[to + i] = one(row + column);
  }
}

// Numbers below 0 count as 0.
DEVICE u32 key_above(float x) {
  return key_of(x > 0 ? x : 0);
}

// counts [rows, 16]: how many numbers of a row have a key of at least each of 16
// limits.
template <typename T>
DEVICE void count_above(
    const T* pre,
    const float* by,
    const u32* limits,
    int* counts,
    int width,
    int ranked) {
  const T* row = pre + (long long)block_x() * width;
  u32 limit[16];
  int own[16] = {};
#pragma unroll
  for (int j = 0; j < 16; ++j)
    limit[j] = limits[j];
#pragma clang loop unroll(disable)
  for (int c = thread() * 8; c < width; c += 8 * 256) {
    const Eight x = ranks(row, by, c, ranked);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const u32 key = key_above(x.at[i]);
#pragma unroll
      for (int j = 0; j < 16; ++j)
        own[j] += key >= limit[j];
    }
  }
  SHARED int* shared = (SHARED int*)places_of_row;
#pragma unroll
  for (int j = 0; j < 16; ++j) {
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2)
      own[j] += __nvvm_shfl_sync_bfly_i32(0xffffffffu, own[j], apart, 31);
    if (thread() % 32 == 0) shared[j * 8 + thread() / 32] = own[j];
  }
  wait_for_others();
  if (thread() >= 16) return;
  int sum = 0;
#pragma unroll
  for (int warp = 0; warp < 8; ++warp)
    sum += shared[thread() * 8 + warp];
  counts[block_x() * 16 + thread()] = sum;
}

// Of each row the places whose key is above `limit`, and the first ties[row] of
// those at it, ascending, from start[row] on.
template <typename T>
DEVICE void write_above(
    const T* pre,
    const float* by,
    const u32* limit,
    const int* start,
    const int* ties,
    int* rows,
    int* cols,
    float* values,
    int width,
    int ranked) {
  const T* row = pre + (long long)block_x() * width;
  const u32 least = *limit;
  const int lane = thread() % 32, warp = thread() / 32;
  SHARED int* shared = (SHARED int*)places_of_row;
  int to = start[block_x()], left = ties[block_x()];
#pragma clang loop unroll(disable)
  for (int first = 0; first < width; first += 8 * 256) {
    const int c = first + thread() * 8;
    Eight x = {};
    u32 above = 0, equal = 0;  // bits
    if (c < width) {
      x = ranks(row, by, c, ranked);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const u32 key = key_above(x.at[i]);
        above |= (u32)(key > least) << i;
        equal |= (u32)(key == least) << i;
      }
    }
    // Both counts of the threads before this one, in one number.
    const int own = __builtin_popcount(above) | __builtin_popcount(equal) << 16;
    int sum = own;
#pragma unroll
    for (int apart = 1; apart < 32; apart *= 2) {
      const int other = __nvvm_shfl_sync_up_i32(0xffffffffu, sum, apart, 0);
      if (lane >= apart) sum += other;
    }
    wait_for_others();
    if (lane == 31) shared[warp] = sum;
    wait_for_others();
    int before = sum - own, all = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i < warp) before += shared[i];
      all += shared[i];
    }
    const int equal_before = before >> 16;
    int at = to + (before & 0xffff) +
             (equal_before < left ? equal_before : left);
    int tie = equal_before;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const bool is_tie = equal >> i & 1;
      if (!(above >> i & 1) && !(is_tie && tie < left)) {
        tie += is_tie;
        continue;
      }
      tie += is_tie;
      rows[at] = block_x();
      cols[at] = c + i;
      values[at] = x.at[i] > 0 ? x.at[i] : 0;
      ++at;
    }
    const int taken = all >> 16 < left ? all >> 16 : left;
    to += (all & 0xffff) + taken;
    left -= taken;
  }
}

// The first place of `all` that is not below `row`.
DEVICE int first_of(const int* all, int n, int row) {
  int from = 0, to = n;
  while (from < to) {
    const int middle = (from + to) / 2;
    if (all[middle] < row)
      from = middle + 1;
    else
      to = middle;
  }
  return from;
}

// A block's own row of out [rows, d], of places [begin, end): the sum of
// value(i) from[source(i)]. d is a multiple of 8.
template <typename T, typename Value, typename Source>
DEVICE void sum_of_rows(
    int begin,
    int end,
    const T* from,
    float* out,
    int d,
    const Value& value,
    const Source& source) {
  for (int c = thread() * 8; c < d; c += threads() * 8) {
    Eight sums = {};
    constexpr int ahead = 4;
    int i = begin;
    for (; i + ahead <= end; i += ahead) {
      Eight some[ahead];
      float by[ahead];
#pragma unroll
      for (int j = 0; j < ahead; ++j) {
        some[j] = eight(from + (long long)source(i + j) * d + c);
        by[j] = value(i + j);
      }
#pragma unroll
      for (int j = 0; j < ahead; ++j)
#pragma unroll
        for (int e = 0; e < 8; ++e)
          sums.at[e] += by[j] * some[j].at[e];
    }
    for (; i < end; ++i) {
      const Eight some = eight(from + (long long)source(i) * d + c);
      const float by = value(i);
#pragma unroll
      for (int e = 0; e < 8; ++e)
        sums.at[e] += by * some.at[e];
    }
    write(out + (long long)block_x() * d + c, sums);
  }
}

// out [rows, d]: sum_i values_i W[cols_i] of the places of a row; rows ascend.
template <typename T>
DEVICE void decode(
    const int* rows,
    const int* cols,
    const float* values,
    const T* W,
    float* out,
    int n,
    int d) {
  const int begin = first_of(rows, n, block_x());
  const int end = first_of(rows, n, block_x() + 1);
  sum_of_rows(
      begin,
      end,
      W,
      out,
      d,
      [&](int i) { return values[i]; },
      [&](int i) { return cols[i]; });
}

// out [features, d]: sum_i values_i G[rows_i] of the places of a feature, and
// sums [features] of the values. `order`: of the places, those of feature f
// from begin[f] on.
template <typename T>
DEVICE void outer(
    const int* rows,
    const float* values,
    const int* order,
    const int* begin,
    const T* G,
    float* out,
    float* sums,
    int d) {
  const int from = begin[block_x()], to = begin[block_x() + 1];
  sum_of_rows(
      from,
      to,
      G,
      out,
      d,
      [&](int i) { return values[order[i]]; },
      [&](int i) { return rows[order[i]]; });
  if (thread() == 0) {
    float sum = 0;
    for (int i = from; i < to; ++i)
      sum += values[order[i]];
    sums[block_x()] = sum;
  }
}

// out [n]: G[rows_i] . W[cols_i], a warp each.
template <typename T>
DEVICE void dots(
    const int* rows,
    const int* cols,
    const T* G,
    const T* W,
    float* out,
    int n,
    int d) {
  const int i = block_x() * 8 + thread() / 32, lane = thread() % 32;
  if (i >= n) return;
  const T* a = G + (long long)rows[i] * d;
  const T* b = W + (long long)cols[i] * d;
  float sum = 0;
  for (int c = lane * 8; c < d; c += 256) {
    const Eight left = eight(a + c), right = eight(b + c);
#pragma unroll
    for (int e = 0; e < 8; ++e)
      sum += left.at[e] * right.at[e];
  }
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2)
    sum += __nvvm_shfl_sync_bfly_f32(0xffffffffu, sum, apart, 31);
  if (lane == 0) out[i] = sum;
}

#define KERNEL extern "C" __attribute__((global)) void

#define TOP_OF_ROWS(each, type, T)                                           \
  KERNEL __attribute__((launch_bounds(256))) top_of_rows_##each##_##type(    \
      const T* pre,                                                          \
      const float* by,                                                       \
      int* cols,                                                             \
      float* values,                                                         \
      int width,                                                             \
      int k,                                                                 \
      int ranked) {                                                          \
    top_of_rows<each>(pre, by, cols, values, width, k, ranked);              \
  }

TOP_OF_ROWS(1, float32, float)
TOP_OF_ROWS(4, float32, float)
TOP_OF_ROWS(1, bfloat16, u16)
TOP_OF_ROWS(4, bfloat16, u16)

#define OF_TYPE(type, T)                                                     \
  KERNEL __attribute__((launch_bounds(256))) count_above_##type(             \
      const T* pre,                                                          \
      const float* by,                                                       \
      const u32* limits,                                                     \
      int* counts,                                                           \
      int width,                                                             \
      int ranked) {                                                          \
    count_above(pre, by, limits, counts, width, ranked);                     \
  }                                                                          \
  KERNEL __attribute__((launch_bounds(256))) write_above_##type(             \
      const T* pre,                                                          \
      const float* by,                                                       \
      const u32* limit,                                                      \
      const int* start,                                                      \
      const int* ties,                                                       \
      int* rows,                                                             \
      int* cols,                                                             \
      float* values,                                                         \
      int width,                                                             \
      int ranked) {                                                          \
    write_above(                                                             \
        pre, by, limit, start, ties, rows, cols, values, width, ranked);     \
  }                                                                          \
  KERNEL decode_##type(                                                      \
      const int* rows,                                                       \
      const int* cols,                                                       \
      const float* values,                                                   \
      const T* W,                                                            \
      float* out,                                                            \
      int n,                                                                 \
      int d) {                                                               \
    decode(rows, cols, values, W, out, n, d);                                \
  }                                                                          \
  KERNEL outer_##type(                                                       \
      const int* rows,                                                       \
      const float* values,                                                   \
      const int* order,                                                      \
      const int* begin,                                                      \
      const T* G,                                                            \
      float* out,                                                            \
      float* sums,                                                           \
      int d) {                                                               \
    outer(rows, values, order, begin, G, out, sums, d);                      \
  }                                                                          \
  KERNEL __attribute__((launch_bounds(256))) dots_##type(                    \
      const int* rows,                                                       \
      const int* cols,                                                       \
      const T* G,                                                            \
      const T* W,                                                            \
      float* out,                                                            \
      int n,                                                                 \
      int d) {                                                               \
    dots(rows, cols, G, W, out, n, d);                                       \
  }

OF_TYPE(float32, float)
OF_TYPE(bfloat16, u16)
