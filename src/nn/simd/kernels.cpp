// Compiled once for every instruction set the machine may have: what stands
// between HWY_BEFORE_NAMESPACE and HWY_AFTER_NAMESPACE is in N_AVX2, N_AVX3,
// ...
#include "nn/simd/kernels.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>

#include "core/parallel.h"
#include "mlxterp/core/blas.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "nn/simd/kernels.cpp"
// Vectors of a length unknown when compiling cannot lie in arrays.
#define HWY_DISABLED_TARGETS \
  (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

#ifndef MLXTERP_SIMD_ONCE
#define MLXTERP_SIMD_ONCE
namespace mlxterp::simd {

// Destinations whose scores are made together: twice as many vectors of sums
// fill the registers of AVX2.
constexpr size_t most_rows = 6;

// What one stretch of destinations needs; k [d_head, src] with the scale in it
// and v [src, d_head] lie packed, their rows padded with zeros to whole tiles.
struct Stretch {
  const AttentionShape& shape;
  const float* k;
  size_t k_columns;
  const float* v;
  size_t v_columns;
  const float* q;  // of one head: rows q_row apart, numbers q_step apart
  int64_t q_row, q_step;
  float* out;  // rows out_row apart
  size_t out_row;
  size_t begin, end;  // the destinations
  float sink, slope;  // -inf and 0 for none
};

}  // namespace mlxterp::simd
#endif

HWY_BEFORE_NAMESPACE();
namespace mlxterp::simd::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using nn::Activation;

using Wide = hn::ScalableTag<float>;
using V = hn::Vec<Wide>;
constexpr Wide wide{};

V set(float value) {
  return hn::Set(wide, value);
}

// p[0] + p[1] x + ..., by Horner's rule.
template <size_t n>
V polynomial(V x, const float (&p)[n]) {
  auto y = set(p[n - 1]);
  for (size_t i = n - 1; i-- > 0;)
    y = hn::MulAdd(y, x, set(p[i]));
  return y;
}

// 2^n for a whole n in -126..127, made of its exponent bits.
V power_of_two(hn::Vec<hn::RebindToSigned<Wide>> n) {
  const hn::RebindToSigned<Wide> whole;
  return hn::BitCast(wide, hn::ShiftLeft<23>(hn::Add(n, hn::Set(whole, 127))));
}

// Within 2 ulp; Inf and NaN as std::exp has them. What is left of x after the
// multiples of ln 2 (taken in two steps: Cody and Waite, 1980) goes through
// Taylor's series, whose error at ln 2 / 2 is below float's.
V exp(V x) {
  const auto held = hn::Min(hn::Max(x, set(-105.0f)), set(90.0f));
  const auto n = hn::NearestInt(hn::Mul(held, set(1.44269504f)));
  const auto times = hn::ConvertTo(wide, n);
  auto rest = hn::NegMulAdd(times, set(0.693359375f), held);
  rest = hn::MulAdd(times, set(2.12194440e-4f), rest);
  const auto y = polynomial(
      rest,
      {1, 1, 1 / 2.f, 1 / 6.f, 1 / 24.f, 1 / 120.f, 1 / 720.f, 1 / 5040.f});
  // In two steps, as 2^n alone may be no normal number.
  const auto half = hn::ShiftRight<1>(n);
  const auto scaled =
      hn::Mul(hn::Mul(y, power_of_two(half)), power_of_two(hn::Sub(n, half)));
  return hn::IfThenElse(hn::IsNaN(x), x, scaled);
}

V sigmoid_of_negated(V minus_x) {
  return hn::Div(set(1), hn::Add(set(1), exp(minus_x)));
}

// The share of a standard normal that lies below x: half of erfc(-x / sqrt 2).
// erfc(t) exp(t^2) is s times a polynomial in s = 1 / (1 + t / 2), as in
// Abramowitz and Stegun, 7.1.26; these coefficients are a least-squares fit.
V normal_share(V x) {
  const auto t = hn::Mul(hn::Abs(x), set(0.70710678f));
  const auto s = hn::Div(set(1), hn::MulAdd(t, set(0.5f), set(1)));
  const auto tail = polynomial(
      s,
      {0.282083477f,
       0.282433529f,
       0.242632268f,
       0.204735515f,
       -0.0318766251f,
       0.286242864f,
       -0.494792512f,
       0.288439531f,
       -0.0598980956f});
  const auto beyond = hn::Mul(
      hn::Mul(set(0.5f), exp(hn::Neg(hn::Mul(t, t)))), hn::Mul(s, tail));
  return hn::IfThenElse(
      hn::Lt(x, hn::Zero(wide)), beyond, hn::Sub(set(1), beyond));
}

template <Activation activation>
V act(V x) {
  if constexpr (activation == Activation::relu) {
    // Not Max, which may drop NaN.
    return hn::IfThenElse(hn::Lt(x, hn::Zero(wide)), hn::Zero(wide), x);
  } else if constexpr (activation == Activation::relu_squared) {
    const auto y = act<Activation::relu>(x);
    return hn::Mul(y, y);
  } else if constexpr (activation == Activation::silu) {
    return hn::Mul(x, sigmoid_of_negated(hn::Neg(x)));
  } else if constexpr (activation == Activation::gelu) {
    return hn::Mul(x, normal_share(x));
  } else {
    // (1 + tanh y) / 2 is the sigmoid of 2 y.
    const auto cubic =
        hn::MulAdd(hn::Mul(x, x), set(-0.0713548163f), set(-1.59576912f));
    return hn::Mul(x, sigmoid_of_negated(hn::Mul(x, cubic)));
  }
}

template <Activation activation>
V slope(V x) {
  const auto one = set(1);
  if constexpr (activation == Activation::relu) {
    // NaN stays.
    return hn::IfThenElse(
        hn::IsNaN(x), x, hn::IfThenElseZero(hn::Gt(x, hn::Zero(wide)), one));
  } else if constexpr (activation == Activation::relu_squared) {
    return hn::Mul(set(2), act<Activation::relu>(x));
  } else if constexpr (activation == Activation::silu) {
    const auto s = sigmoid_of_negated(hn::Neg(x));
    return hn::Mul(s, hn::MulAdd(x, hn::Sub(one, s), one));
  } else if constexpr (activation == Activation::gelu) {
    const auto density =
        hn::Mul(set(0.398942280f), exp(hn::Mul(hn::Mul(x, x), set(-0.5f))));
    return hn::MulAdd(x, density, normal_share(x));
  } else {
    const auto square = hn::Mul(x, x);
    const auto s = sigmoid_of_negated(
        hn::Mul(x, hn::MulAdd(square, set(-0.0713548163f), set(-1.59576912f))));
    const auto inner =
        hn::Mul(x, hn::MulAdd(square, set(0.214064449f), set(1.59576912f)));
    return hn::Mul(s, hn::MulAdd(inner, hn::Sub(one, s), one));
  }
}

// act, or its slope.
template <Activation activation, bool slopes>
void activate_all(const float* gate, const float* up, float* out, size_t n) {
  const size_t lanes = hn::Lanes(wide);
  const auto step = [&](const float* g, const float* u, float* o) HWY_ATTR {
    const auto x = hn::LoadU(wide, g);
    auto y = x;
    if constexpr (slopes)
      y = slope<activation>(x);
    else
      y = act<activation>(x);
    if (u) y = hn::Mul(y, hn::LoadU(wide, u));
    hn::StoreU(y, wide, o);
  };
  size_t i = 0;
  for (; i + lanes <= n; i += lanes)
    step(gate + i, up ? up + i : nullptr, out + i);
  if (i == n) return;
  float g[HWY_MAX_BYTES / sizeof(float)] = {};
  float u[HWY_MAX_BYTES / sizeof(float)] = {};
  std::copy(gate + i, gate + n, g);
  if (up) std::copy(up + i, up + n, u);
  step(g, up ? u : nullptr, g);
  std::copy(g, g + (n - i), out + i);
}

template <bool slopes>
void activate_by(
    Activation activation,
    const float* gate,
    const float* up,
    float* out,
    size_t n) {
  switch (activation) {
    case Activation::silu:
      return activate_all<Activation::silu, slopes>(gate, up, out, n);
    case Activation::gelu:
      return activate_all<Activation::gelu, slopes>(gate, up, out, n);
    case Activation::gelu_tanh:
      return activate_all<Activation::gelu_tanh, slopes>(gate, up, out, n);
    case Activation::relu:
      return activate_all<Activation::relu, slopes>(gate, up, out, n);
    case Activation::relu_squared:
      return activate_all<Activation::relu_squared, slopes>(gate, up, out, n);
    case Activation::xielu:
      return;  // never asked for: it has parameters
  }
}

void activate(
    Activation activation,
    bool slopes,
    const float* gate,
    const float* up,
    float* out,
    size_t n) {
  if (slopes)
    activate_by<true>(activation, gate, up, out, n);
  else
    activate_by<false>(activation, gate, up, out, n);
}

void rms_norm(
    const float* x, const float* weight, float eps, float* out, size_t n) {
  const size_t lanes = hn::Lanes(wide);
  auto a = hn::Zero(wide), b = a;
  size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto x0 = hn::LoadU(wide, x + i);
    const auto x1 = hn::LoadU(wide, x + i + lanes);
    a = hn::MulAdd(x0, x0, a);
    b = hn::MulAdd(x1, x1, b);
  }
  float sum = hn::GetLane(hn::SumOfLanes(wide, hn::Add(a, b)));
  for (; i < n; ++i)
    sum += x[i] * x[i];
  const float by = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
  i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto y = hn::Mul(hn::LoadU(wide, x + i), set(by));
    hn::StoreU(hn::Mul(y, hn::LoadU(wide, weight + i)), wide, out + i);
  }
  for (; i < n; ++i)
    out[i] = x[i] * by * weight[i];
}

// One head at one position.
void rotate(
    const float* HWY_RESTRICT x,
    const float* HWY_RESTRICT cosines,
    const float* HWY_RESTRICT sines,
    size_t dims,
    bool interleaved,
    float* HWY_RESTRICT out) {
  const size_t half = dims / 2;
  if (interleaved) {
    for (size_t i = 0; i < half; ++i) {
      const float a = x[2 * i], b = x[2 * i + 1];
      out[2 * i] = a * cosines[i] - b * sines[i];
      out[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
    return;
  }
  for (size_t i = 0; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    out[i] = a * cosines[i] - b * sines[i];
    out[half + i] = a * sines[i] + b * cosines[i];
  }
}

// c = a b for `r` rows of a and a tile of two vectors of columns; each sum runs
// in the order of k whatever r is.
template <size_t r>
HWY_INLINE void tile(
    const float* a,
    size_t lda,
    const float* b,
    size_t ldb,
    float* c,
    size_t ldc,
    size_t inner) {
  const size_t lanes = hn::Lanes(wide);
  V left[r], right[r];
  for (size_t i = 0; i < r; ++i)
    left[i] = right[i] = hn::Zero(wide);
  for (size_t k = 0; k < inner; ++k) {
    const auto b0 = hn::LoadU(wide, b + k * ldb);
    const auto b1 = hn::LoadU(wide, b + k * ldb + lanes);
    HWY_UNROLL(8)
    for (size_t i = 0; i < r; ++i) {
      const auto by = hn::Set(wide, a[i * lda + k]);
      left[i] = hn::MulAdd(by, b0, left[i]);
      right[i] = hn::MulAdd(by, b1, right[i]);
    }
  }
  for (size_t i = 0; i < r; ++i) {
    hn::StoreU(left[i], wide, c + i * ldc);
    hn::StoreU(right[i], wide, c + i * ldc + lanes);
  }
}

template <size_t r>
void product_of(
    const float* a,
    size_t lda,
    const float* b,
    size_t ldb,
    float* c,
    size_t ldc,
    size_t inner,
    size_t columns) {
  const size_t step = 2 * hn::Lanes(wide);
  for (size_t j = 0; j < columns; j += step)
    tile<r>(a, lda, b + j, ldb, c + j, ldc, inner);
}

// c [rows, columns] = a [rows, inner] b [inner, columns]; rows at most
// most_rows, columns whole tiles.
void product(
    size_t rows,
    const float* a,
    size_t lda,
    const float* b,
    size_t ldb,
    float* c,
    size_t ldc,
    size_t inner,
    size_t columns) {
  switch (rows) {
    case 1:
      return product_of<1>(a, lda, b, ldb, c, ldc, inner, columns);
    case 2:
      return product_of<2>(a, lda, b, ldb, c, ldc, inner, columns);
    case 3:
      return product_of<3>(a, lda, b, ldb, c, ldc, inner, columns);
    case 4:
      return product_of<4>(a, lda, b, ldb, c, ldc, inner, columns);
    case 5:
      return product_of<5>(a, lda, b, ldb, c, ldc, inner, columns);
    default:
      return product_of<6>(a, lda, b, ldb, c, ldc, inner, columns);
  }
}

// Turns a row of scores, whole tiles long, into its exponentials over the
// largest; their sum. `sink` is one score more, -inf for none.
float exponentials(float* row, size_t n, float sink) {
  const size_t lanes = hn::Lanes(wide);
  auto top = hn::Max(hn::LoadU(wide, row), set(sink));
  for (size_t i = lanes; i < n; i += lanes)
    top = hn::Max(top, hn::LoadU(wide, row + i));
  const auto most = set(hn::GetLane(hn::MaxOfLanes(wide, top)));
  auto sum = hn::Zero(wide);
  for (size_t i = 0; i < n; i += lanes) {
    const auto y = exp(hn::Sub(hn::LoadU(wide, row + i), most));
    hn::StoreU(y, wide, row + i);
    sum = hn::Add(sum, y);
  }
  return hn::GetLane(hn::SumOfLanes(wide, sum)) +
         std::exp(sink - hn::GetLane(most));
}

// Takes `slope` from each of n scores for every source that follows it up to
// the one at `own`.
void add_slope(float* row, size_t n, float slope, size_t own) {
  const size_t lanes = hn::Lanes(wide);
  const auto by = set(slope);
  auto behind = hn::Sub(hn::Iota(wide, 0), set(static_cast<float>(own)));
  const auto step = set(static_cast<float>(lanes));
  for (size_t i = 0; i < n; i += lanes) {
    hn::StoreU(hn::MulAdd(by, behind, hn::LoadU(wide, row + i)), wide, row + i);
    behind = hn::Add(behind, step);
  }
}

double sum_of_exponentials(const float* x, size_t n, float most) {
  constexpr size_t block = 1024;  // as long as float may add them up
  const size_t lanes = hn::Lanes(wide);
  double total = 0;
  for (size_t begin = 0; begin < n; begin += block) {
    const size_t end = std::min(n, begin + block);
    auto sum = hn::Zero(wide);
    size_t i = begin;
    for (; i + lanes <= end; i += lanes)
      sum = hn::Add(sum, exp(hn::Sub(hn::LoadU(wide, x + i), set(most))));
    total += static_cast<double>(hn::GetLane(hn::SumOfLanes(wide, sum)));
    for (; i < end; ++i)
      total += static_cast<double>(std::exp(x[i] - most));
  }
  return total;
}

size_t tile_columns() {
  return 2 * hn::Lanes(wide);
}

// The first source that the one at `own` sees.
size_t first_seen(const AttentionShape& shape, size_t own) {
  const bool windowed = shape.window > 0 && own >= shape.window;
  const size_t first = windowed ? own + 1 - shape.window : 0;
  return shape.chunk > 0 ? std::max(first, own - own % shape.chunk) : first;
}

// Scores, softmax and mix of at most most_rows destinations at a time: their
// scores never leave the cache (Dao et al., 2022); whole rows of them, so that
// the softmax is the plain one.
void attend(const Stretch& it, float* scratch) {
  const auto& shape = it.shape;
  const size_t columns = tile_columns(), d = shape.d_head;
  float* const q = scratch;
  float* const z = q + most_rows * d;
  float* const scores = z + most_rows * it.v_columns;
  const float masked = -std::numeric_limits<float>::infinity();
  for (size_t i = it.begin; i < it.end; i += most_rows) {
    const size_t rows = std::min(most_rows, it.end - i);
    for (size_t r = 0; r < rows; ++r)
      for (size_t j = 0; j < d; ++j)
        q[r * d + j] = it
                           .q[static_cast<int64_t>(i + r) * it.q_row +
                              static_cast<int64_t>(j) * it.q_step];
    // Row r sees the sources up to last + r, without it.
    const size_t last = i + shape.src - shape.dest + 1;
    const size_t from = first_seen(shape, last - 1) / columns * columns;
    const size_t to = last + rows - 1;
    const size_t n = (to - from + columns - 1) / columns * columns;
    product(rows, q, d, it.k + from, it.k_columns, scores, it.k_columns, d, n);
    float sums[most_rows];
    for (size_t r = 0; r < rows; ++r) {
      float* const row = scores + r * it.k_columns;
      const size_t begin = first_seen(shape, last - 1 + r) - from;
      if (it.slope != 0) add_slope(row, n, it.slope, last - 1 + r - from);
      std::fill(row, row + begin, masked);
      std::fill(row + (last + r - from), row + n, masked);
      sums[r] = exponentials(row, n, it.sink);
    }
    product(
        rows,
        scores,
        it.k_columns,
        it.v + from * it.v_columns,
        it.v_columns,
        z,
        it.v_columns,
        to - from,
        it.v_columns);
    for (size_t r = 0; r < rows; ++r)
      for (size_t j = 0; j < d; ++j)
        it.out[(i + r) * it.out_row + j] = z[r * it.v_columns + j] / sums[r];
  }
}

}  // namespace
}  // namespace mlxterp::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mlxterp::simd {
namespace {

HWY_EXPORT(activate);
HWY_EXPORT(rms_norm);
HWY_EXPORT(rotate);
HWY_EXPORT(attend);
HWY_EXPORT(tile_columns);
HWY_EXPORT(sum_of_exponentials);

// Numbers that one core works through in about the time a thread takes to
// start, of light work (a load, an exponential, a store).
constexpr size_t light_work = size_t{1} << 15;

template <typename Part>
void over_threads(size_t n, size_t least, const Part& part) {
  split_over_cores(n, least, part, compute_threads());
}

std::unique_ptr<float[]> uninitialized(size_t n) {
  return std::make_unique_for_overwrite<float[]>(n);
}

}  // namespace

void activate(
    nn::Activation activation,
    bool slope,
    const float* gate,
    const float* up,
    float* out,
    size_t n) {
  over_threads(n, light_work, [&](size_t begin, size_t end) {
    HWY_DYNAMIC_DISPATCH(activate)
    (activation,
     slope,
     gate + begin,
     up ? up + begin : nullptr,
     out + begin,
     end - begin);
  });
}

double sum_of_exponentials(const float* x, size_t n, float most) {
  return HWY_DYNAMIC_DISPATCH(sum_of_exponentials)(x, n, most);
}

void rms_norm(
    const float* x,
    const float* weight,
    float eps,
    float* out,
    size_t rows,
    size_t n) {
  const size_t least = 4 * light_work / std::max<size_t>(n, 1) + 1;
  over_threads(rows, least, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i)
      HWY_DYNAMIC_DISPATCH(rms_norm)(x + i * n, weight, eps, out + i * n, n);
  });
}

void rotate(const Rotation& by, const Heads& x, float* out) {
  const size_t half = by.dims / 2, d = by.d_head;
  const size_t rows = by.batch * by.heads * by.rows;
  over_threads(
      rows, light_work / std::max<size_t>(d, 1) + 1, [&](size_t i, size_t end) {
        const auto dense = uninitialized(d);
        for (; i < end; ++i) {
          const size_t row = i % by.rows;
          const size_t position =
              by.positions ? static_cast<size_t>(by.positions[row]) : row;
          const size_t head = i / by.rows % by.heads;
          const size_t batch = i / by.rows / by.heads;
          const float* from = x.data +
                              static_cast<int64_t>(batch) * x.strides[0] +
                              static_cast<int64_t>(head) * x.strides[1] +
                              static_cast<int64_t>(row) * x.strides[2];
          if (x.strides[3] != 1) {
            for (size_t j = 0; j < d; ++j)
              dense[j] = from[static_cast<int64_t>(j) * x.strides[3]];
            from = dense.get();
          }
          HWY_DYNAMIC_DISPATCH(rotate)
          (from,
           by.cosines + position * half,
           by.sines + position * half,
           by.dims,
           by.interleaved,
           out + i * d);
          std::copy(from + by.dims, from + d, out + i * d + by.dims);
        }
      });
}

namespace {

// Where the sources of one kv head go: k as [d, source], its rows k_columns
// long, v as [source, d], its rows v_columns long.
struct Packed {
  float* k;
  size_t k_columns;
  float* v;
  size_t v_columns;
};

// Copies the first `count` rows of a head of k and v to the sources from `at`
// on, k times the scale.
void pack(
    const float* from_k,
    const std::array<int64_t, 4>& by_k,
    const float* from_v,
    const std::array<int64_t, 4>& by_v,
    size_t count,
    size_t at,
    size_t d,
    float scale,
    const Packed& to) {
  // By blocks, so that what is written stays in the cache.
  constexpr size_t block = 16;
  for (size_t first = 0; first < count; first += block)
    for (size_t j = 0; j < d; ++j)
      for (size_t i = first; i < std::min(count, first + block); ++i)
        to.k[j * to.k_columns + at + i] =
            scale * from_k
                        [static_cast<int64_t>(i) * by_k[2] +
                         static_cast<int64_t>(j) * by_k[3]];
  for (size_t i = 0; i < count; ++i) {
    float* row = to.v + (at + i) * to.v_columns;
    for (size_t j = 0; j < d; ++j)
      row[j] = from_v
          [static_cast<int64_t>(i) * by_v[2] +
           static_cast<int64_t>(j) * by_v[3]];
  }
}

// Zeros behind `src` sources of d numbers.
void pad(size_t src, size_t d, const Packed& to) {
  for (size_t j = 0; j < d; ++j)
    std::fill(
        to.k + j * to.k_columns + src, to.k + (j + 1) * to.k_columns, 0.0f);
  for (size_t i = 0; i < src; ++i)
    std::fill(to.v + i * to.v_columns + d, to.v + (i + 1) * to.v_columns, 0.0f);
}

size_t whole_tiles(size_t n) {
  const size_t columns = HWY_DYNAMIC_DISPATCH(tile_columns)();
  return (n + columns - 1) / columns * columns;
}

float sink_of(const AttentionShape& shape, size_t head) {
  return shape.sinks ? shape.sinks[head]
                     : -std::numeric_limits<float>::infinity();
}

float slope_of(const AttentionShape& shape, size_t head) {
  return shape.slopes ? shape.slopes[head] : 0;
}

const float* head_of(const Heads& x, size_t batch, size_t head, size_t row) {
  return x.data + static_cast<int64_t>(batch) * x.strides[0] +
         static_cast<int64_t>(head) * x.strides[1] +
         static_cast<int64_t>(row) * x.strides[2];
}

}  // namespace

void attend(
    const AttentionShape& shape,
    const Heads& q,
    const Heads& k,
    const Heads& v,
    float* out) {
  const size_t src = shape.src, d = shape.d_head;
  const size_t k_columns = whole_tiles(src), v_columns = whole_tiles(d);
  const auto packed_k =
      uninitialized(shape.batch * shape.kv_heads * d * k_columns);
  const auto packed_v =
      uninitialized(shape.batch * shape.kv_heads * src * v_columns);
  const size_t pairs = shape.batch * shape.kv_heads;
  over_threads(
      pairs,
      light_work / std::max<size_t>(src * d, 1) + 1,
      [&](size_t begin, size_t end) {
        for (size_t pair = begin; pair < end; ++pair) {
          const size_t batch = pair / shape.kv_heads;
          const size_t head = pair % shape.kv_heads;
          const Packed to{
              packed_k.get() + pair * d * k_columns,
              k_columns,
              packed_v.get() + pair * src * v_columns,
              v_columns};
          pack(
              head_of(k, batch, head, 0),
              k.strides,
              head_of(v, batch, head, 0),
              v.strides,
              src,
              0,
              d,
              shape.scale,
              to);
          pad(src, d, to);
        }
      });

  constexpr size_t stretch = 48;  // destinations that one core takes at a time
  const size_t stretches = (shape.dest + stretch - 1) / stretch;
  const size_t tasks = shape.batch * shape.heads * stretches;
  const size_t work = std::min(stretch, shape.dest) * src * d / 8;
  std::atomic<size_t> next{0};
  over_threads(
      tasks, light_work / std::max<size_t>(work, 1) + 1, [&](size_t, size_t) {
        const auto scratch =
            uninitialized(most_rows * (d + v_columns + k_columns));
        for (size_t task; (task = next++) < tasks;) {
          // Later destinations see more: they come first.
          const size_t part = stretches - 1 - task / (tasks / stretches);
          const size_t which = task % (tasks / stretches);
          const size_t batch = which / shape.heads;
          const size_t head = which % shape.heads;
          const size_t pair =
              batch * shape.kv_heads + head / (shape.heads / shape.kv_heads);
          HWY_DYNAMIC_DISPATCH(attend)
          ({.shape = shape,
            .k = packed_k.get() + pair * d * k_columns,
            .k_columns = k_columns,
            .v = packed_v.get() + pair * src * v_columns,
            .v_columns = v_columns,
            .q = head_of(q, batch, head, 0),
            .q_row = q.strides[2],
            .q_step = q.strides[3],
            .out = out + (batch * shape.dest * shape.heads + head) * d,
            .out_row = shape.heads * d,
            .begin = part * stretch,
            .end = std::min(shape.dest, (part + 1) * stretch),
            .sink = sink_of(shape, head),
            .slope = slope_of(shape, head)},
           scratch.get());
        }
      });
}

void attend_packed(
    const AttentionShape& shape,
    const nn::PackedBatch& packed,
    const Heads& q,
    const Heads& k,
    const Heads& v,
    float* out) {
  const size_t d = shape.d_head, group = shape.heads / shape.kv_heads;
  const auto size = [](int n) { return static_cast<size_t>(n); };
  size_t longest = 0, work = 0;
  for (const auto& it : packed.sequences) {
    const size_t src = size(it.first) + size(it.length);
    longest = std::max(longest, src);
    work += src * (group * size(it.length) + 2) * d / 8;
  }
  const size_t most_columns = whole_tiles(longest), v_columns = whole_tiles(d);
  const size_t tasks = packed.sequences.size() * shape.kv_heads;
  const size_t each = work / std::max<size_t>(packed.sequences.size(), 1);
  std::atomic<size_t> next{0};
  over_threads(
      tasks, light_work / std::max<size_t>(each, 1) + 1, [&](size_t, size_t) {
        const auto packed_k = uninitialized(d * most_columns);
        const auto packed_v = uninitialized(longest * v_columns);
        const auto scratch =
            uninitialized(most_rows * (d + v_columns + most_columns));
        for (size_t task; (task = next++) < tasks;) {
          const auto& it = packed.sequences[task / shape.kv_heads];
          const size_t kv_head = task % shape.kv_heads;
          const size_t first = size(it.first), length = size(it.length);
          auto own = shape;
          own.dest = length;
          own.src = first + length;
          const Packed to{
              packed_k.get(), whole_tiles(own.src), packed_v.get(), v_columns};
          const auto take = [&](size_t row, size_t count, size_t at) {
            pack(
                head_of(k, 0, kv_head, row),
                k.strides,
                head_of(v, 0, kv_head, row),
                v.strides,
                count,
                at,
                d,
                shape.scale,
                to);
          };
          take(size(it.prefix_row), first, 0);
          take(size(it.row), length, first);
          pad(own.src, d, to);
          for (size_t i = 0; i < group; ++i) {
            const size_t head = kv_head * group + i;
            HWY_DYNAMIC_DISPATCH(attend)
            ({.shape = own,
              .k = to.k,
              .k_columns = to.k_columns,
              .v = to.v,
              .v_columns = v_columns,
              .q = head_of(q, 0, head, size(it.row)),
              .q_row = q.strides[2],
              .q_step = q.strides[3],
              .out = out + (size(it.row) * shape.heads + head) * d,
              .out_row = shape.heads * d,
              .begin = 0,
              .end = length,
              .sink = sink_of(shape, head),
              .slope = slope_of(shape, head)},
             scratch.get());
          }
        }
      });
}

}  // namespace mlxterp::simd
#endif
