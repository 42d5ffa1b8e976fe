// Compiled once for every instruction set, as kernels.cpp.
#include "nn/simd/few_rows.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "core/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nn/simd/few_rows.cpp"
// Vectors of a length unknown when compiling cannot lie in arrays.
#define HWY_DISABLED_TARGETS \
  (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#ifndef MLXTERP_FEW_ROWS_ONCE
#define MLXTERP_FEW_ROWS_ONCE
namespace mlxterp::simd {

// Whole tiles of every instruction set.
constexpr size_t tiles_of_rows = 12;

// Columns at a time, so that a tile's rows stay in the nearest cache.
constexpr size_t most_columns = 1024;

// Numbers to a step: a line of memory in float32.
constexpr size_t line = 16;

// Rows of w that one core takes at a time.
struct RowStretch {
  const MatrixShape& shape;
  const Product& product;
  size_t x_row;  // from one row of x to the next
  size_t begin, end;
};

}  // namespace mlxterp::simd
#endif

HWY_BEFORE_NAMESPACE();
namespace mlxterp::simd::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using Wide = hn::ScalableTag<float>;
using V = hn::Vec<Wide>;
constexpr Wide wide{};

// Rows of w and of x in a tile, so that its sums, the vectors of w and one of x
// fit the registers: 32, or 16 on AVX2 and older.
#if HWY_ARCH_ARM_A64 || (HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3)
constexpr size_t tile_w = 4, tile_x = 6;
#else
constexpr size_t tile_w = 3, tile_x = 4;
#endif
constexpr size_t together = 4;  // sums that are made side by side
static_assert(tile_w <= together && tiles_of_rows % tile_w == 0);

V load(const float* from) {
  return hn::LoadU(wide, from);
}

V load(const hwy::bfloat16_t* from) {
  const hn::Rebind<hwy::bfloat16_t, Wide> half;
  return hn::PromoteTo(wide, hn::LoadU(half, from));
}

V load(const hwy::float16_t* from) {
#if HWY_TARGET == HWY_SCALAR || (HWY_ARCH_X86 && HWY_TARGET >= HWY_SSE4)
  // Highway's own takes infinity for 65536 here. The exponent's bias differs by
  // 112, and that of infinity and NaN, 31, is to be 255.
  const hn::Rebind<uint16_t, Wide> half;
  const hn::RebindToUnsigned<Wide> bits;
  const auto all = hn::PromoteTo(
      bits, hn::LoadU(half, reinterpret_cast<const uint16_t*>(from)));
  const auto rest = hn::And(all, hn::Set(bits, 0x7FFF));
  const auto finite = hn::BitCast(
      bits,
      hn::Mul(
          hn::BitCast(wide, hn::ShiftLeft<13>(rest)), hn::Set(wide, 0x1p112f)));
  const auto no_number = hn::IfThenElseZero(
      hn::Gt(rest, hn::Set(bits, 0x7BFF)), hn::Set(bits, 0x7F800000));
  const auto sign = hn::ShiftLeft<16>(hn::Xor(all, rest));
  return hn::BitCast(wide, hn::Or(hn::Or(finite, no_number), sign));
#else
  const hn::Rebind<hwy::float16_t, Wide> half;
  return hn::PromoteTo(wide, hn::LoadU(half, from));
#endif
}

template <typename T>
void widen(const T* from, size_t n, float* to) {
  const size_t lanes = hn::Lanes(wide);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    hn::StoreU(load(from + i), wide, to + i);
  if (i == n) return;
  T rest[hn::MaxLanes(wide)] = {};
  float widened[hn::MaxLanes(wide)];
  std::copy(from + i, from + n, rest);
  hn::StoreU(load(rest), wide, widened);
  std::copy(widened, widened + (n - i), to + i);
}

// Rows of w that are wanted next, fetched while others are worked on: else
// memory rests while a row of w meets the second to the last rows of x. One row
// after the other, as they lie in memory.
struct Ahead {
  const char* from;
  size_t row, length;  // bytes from one to the next, and those wanted
  size_t count;        // at most tile_w
};

struct Result {
  float* out;
  size_t row;
  bool first;  // or added to what is there
};

// The sums of the numbers of each vector.
template <size_t n>
HWY_INLINE void store_sums(const V (&of)[n], float* HWY_RESTRICT sums) {
#if HWY_TARGET == HWY_SCALAR
  for (size_t i = 0; i < n; ++i)
    sums[i] = hn::GetLane(of[i]);
#else
  const hn::Repartition<double, Wide> pairs;
  V v[together];
  for (size_t i = 0; i < together; ++i)
    v[i] = i < n ? of[i] : hn::Zero(wide);
  // In each block of four: a0 + a2, b0 + b2, a1 + a3, b1 + b3.
  const auto add_two = [](V a, V b) HWY_ATTR {
    return hn::Add(
        hn::InterleaveLower(wide, a, b), hn::InterleaveUpper(wide, a, b));
  };
  const auto ab = hn::BitCast(pairs, add_two(v[0], v[1]));
  const auto cd = hn::BitCast(pairs, add_two(v[2], v[3]));
  const auto in_blocks = hn::Add(
      hn::BitCast(wide, hn::InterleaveLower(pairs, ab, cd)),
      hn::BitCast(wide, hn::InterleaveUpper(pairs, ab, cd)));
  HWY_ALIGN float blocks[hn::MaxLanes(wide)];
  hn::Store(in_blocks, wide, blocks);
  const hn::Full128<float> block;
  auto sum = hn::Load(block, blocks);
  for (size_t i = together; i < hn::Lanes(wide); i += together)
    sum = hn::Add(sum, hn::Load(block, blocks + i));
  hn::StoreU(sum, block, sums);
#endif
}

// Adds the products of a line of numbers.
template <size_t n, size_t m, typename T>
HWY_INLINE void add_line(
    const float* HWY_RESTRICT x,
    size_t x_row,
    const T* HWY_RESTRICT w,
    size_t w_row,
    V (&sums)[m][n]) {
  HWY_UNROLL(8)
  for (size_t part = 0; part < line; part += hn::MaxLanes(wide)) {
    V right[n];
    HWY_UNROLL(8)
    for (size_t i = 0; i < n; ++i)
      right[i] = load(w + i * w_row + part);
    HWY_UNROLL(8)
    for (size_t j = 0; j < m; ++j) {
      const auto left = load(x + j * x_row + part);
      HWY_UNROLL(8)
      for (size_t i = 0; i < n; ++i)
        sums[j][i] = hn::MulAdd(left, right[i], sums[j][i]);
    }
  }
}

// n rows of w by m rows of x, in whole lines of columns.
template <size_t n, size_t m, typename T>
void tile(
    const float* HWY_RESTRICT x,
    size_t x_row,
    const T* HWY_RESTRICT w,
    size_t w_row,
    size_t columns,
    const Ahead& ahead,
    const Result& to) {
  V sums[m][n];
  for (auto& row : sums)
    for (auto& sum : row)
      sum = hn::Zero(wide);
  constexpr size_t step = line * sizeof(T);
  const char *next = ahead.from, *end = next + ahead.length;
  for (size_t k = 0; k < columns; k += line) {
    if (ahead.count > 0) hwy::Prefetch(next);
    if (ahead.count > 1) hwy::Prefetch(next + step);
    if (ahead.count > 2) hwy::Prefetch(next + 2 * step);
    if (ahead.count > 3) hwy::Prefetch(next + 3 * step);
    next += ahead.count * step;
    if (next >= end) {
      end += ahead.row;
      next = end - ahead.length;
    }
    add_line<n, m>(x + k, x_row, w + k, w_row, sums);
  }
  for (size_t j = 0; j < m; ++j) {
    float rows[together];
    store_sums(sums[j], rows);
    float* const out = to.out + j * to.row;
    for (size_t i = 0; i < n; ++i)
      out[i] = to.first ? rows[i] : out[i] + rows[i];
  }
}

template <size_t n, typename T>
void tiles(
    size_t m,
    const float* x,
    size_t x_row,
    const T* w,
    size_t w_row,
    size_t columns,
    const Ahead& ahead,
    const Result& to) {
  switch (m) {
    case 1:
      return tile<n, 1>(x, x_row, w, w_row, columns, ahead, to);
    case 2:
      return tile<n, 2>(x, x_row, w, w_row, columns, ahead, to);
    case 3:
      return tile<n, 3>(x, x_row, w, w_row, columns, ahead, to);
    case 4:
      return tile<n, 4>(x, x_row, w, w_row, columns, ahead, to);
    case 5:
      return tile<n, std::min<size_t>(5, tile_x)>(
          x, x_row, w, w_row, columns, ahead, to);
    default:
      return tile<n, tile_x>(x, x_row, w, w_row, columns, ahead, to);
  }
}

// The columns behind the last whole line, of n rows of w from row i on.
template <size_t n, typename T>
void add_rest(const RowStretch& it, size_t i, const T* w, size_t count) {
  const auto& [x, rows, first, out] = it.product;
  const size_t columns = it.shape.columns;
  for (size_t row = 0; row < n; ++row) {
    float rest[line];
    widen(w + row * columns, count, rest);
    for (size_t j = 0; j < rows; ++j) {
      const float* const left = x + j * it.x_row + columns - count;
      float sum = 0;
      for (size_t k = 0; k < count; ++k)
        sum += left[k] * rest[k];
      out[j * it.shape.rows + i + row] += sum;
    }
  }
}

// n rows of w, from row i on, by all rows of x.
template <size_t n, typename T>
void block(const RowStretch& it, size_t i, size_t from, size_t to) {
  const auto& [x, rows, w, out] = it.product;
  const size_t columns = it.shape.columns;
  const auto* own = static_cast<const T*>(w) + i * columns + from;
  const size_t groups = (rows + tile_x - 1) / tile_x;
  const size_t next = std::min(n, it.end - i - n);
  // What several groups read is widened once.
  constexpr bool half = sizeof(T) < sizeof(float);
  float widened[half ? n * most_columns : 1];
  const bool widens = half && groups > 1;
  const size_t whole = (to - from) / line * line;
  if (widens)
    for (size_t row = 0; row < n; ++row)
      widen(own + row * columns, whole, widened + row * most_columns);
  for (size_t group = 0; group < groups; ++group) {
    const size_t row = rows * group / groups;
    const size_t m = rows * (group + 1) / groups - row;
    const size_t fetched = next * group / groups;
    const Ahead ahead{
        reinterpret_cast<const char*>(own + (n + fetched) * columns),
        columns * sizeof(T),
        whole * sizeof(T),
        next * (group + 1) / groups - fetched};
    const Result result{
        out + row * it.shape.rows + i, it.shape.rows, from == 0};
    const auto* some = x + row * it.x_row + from;
    if (widens)
      tiles<n>(m, some, it.x_row, widened, most_columns, whole, ahead, result);
    else
      tiles<n>(m, some, it.x_row, own, columns, whole, ahead, result);
  }
  if (whole < to - from) add_rest<n>(it, i, own + whole, to - from - whole);
}

template <typename T>
void all_blocks(const RowStretch& it) {
  const size_t columns = it.shape.columns;
  const size_t parts =
      std::max<size_t>((columns + most_columns - 1) / most_columns, 1);
  for (size_t part = 0; part < parts; ++part) {
    const size_t from = columns * part / parts / line * line;
    const size_t to = part + 1 == parts
                          ? columns
                          : columns * (part + 1) / parts / line * line;
    size_t i = it.begin;
    for (; i + tile_w <= it.end; i += tile_w)
      block<tile_w, T>(it, i, from, to);
    for (; i < it.end; ++i)
      block<1, T>(it, i, from, to);
  }
}

void stretch(const RowStretch& it) {
  switch (it.shape.stored) {
    case Stored::float32:
      return all_blocks<float>(it);
    case Stored::float16:
      return all_blocks<hwy::float16_t>(it);
    case Stored::bfloat16:
      return all_blocks<hwy::bfloat16_t>(it);
  }
}

}  // namespace
}  // namespace mlxterp::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mlxterp::simd {
namespace {

HWY_EXPORT(stretch);

// Rows of x, each from the beginning of a line on: a vector of half a kilobit
// that lies across two lines takes as long to load as two.
class AlignedRows {
 public:
  AlignedRows(std::span<const Product> products, size_t columns)
      : row_((columns + line - 1) / line * line) {
    size_t rows = 0;
    for (const auto& product : products)
      rows += product.rows;
    memory_ = std::make_unique_for_overwrite<float[]>(rows * row_ + line);
    void* at = memory_.get();
    size_t space = (rows * row_ + line) * sizeof(float);
    auto* to = static_cast<float*>(std::align(
        line * sizeof(float), rows * row_ * sizeof(float), at, space));
    for (auto product : products) {
      const float* const from = std::exchange(product.x, to);
      for (size_t i = 0; i < product.rows; ++i, to += row_)
        std::copy_n(from + i * columns, columns, to);
      products_.push_back(product);
    }
  }

  std::span<const Product> products() const { return products_; }
  size_t row() const { return row_; }

 private:
  size_t row_;
  std::unique_ptr<float[]> memory_;
  std::vector<Product> products_;
};

}  // namespace

void multiply(
    const MatrixShape& w, std::span<const Product> products, size_t threads) {
  if (products.empty() || w.rows == 0) return;
  const AlignedRows x(products, w.columns);
  size_t rows = 0;
  for (const auto& product : products)
    rows += product.rows;
  // Some stretches for each thread, so that one that others hold up has fewer.
  const size_t wanted = threads > 1 ? 8 * threads : 1;
  const size_t parts = std::max<size_t>(wanted / products.size(), 1);
  const size_t each = (w.rows / parts / tiles_of_rows + 1) * tiles_of_rows;
  const size_t of_one = (w.rows + each - 1) / each;
  const size_t tasks = of_one * products.size();
  // Reading a number takes as long as multiplying it by some rows.
  constexpr size_t rows_to_a_read = 8;
  const size_t work =
      each * w.columns * (1 + rows / products.size() / rows_to_a_read);
  constexpr size_t worth_a_thread = size_t{1} << 15;
  std::atomic<size_t> next{0};
  split_over_cores(
      tasks,
      worth_a_thread / std::max<size_t>(work, 1) + 1,
      [&](size_t, size_t) {
        for (size_t task; (task = next++) < tasks;) {
          const size_t begin = task % of_one * each;
          HWY_DYNAMIC_DISPATCH(stretch)
          ({.shape = w,
            .product = x.products()[task / of_one],
            .x_row = x.row(),
            .begin = begin,
            .end = std::min(w.rows, begin + each)});
        }
      },
      threads);
}

}  // namespace mlxterp::simd
#endif
