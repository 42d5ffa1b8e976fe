// A norm's derivative of rows, and a matrix whose rows are multiplied at each
// position: what a linearised layer does between its products, each in one
// kernel. As few_rows.cu.

#include "device.h"
#include "numbers.h"

extern __attribute__((shared)) float sums_of_warps[];

// The sum over a block of 256, to all.
DEVICE float over_block(float x) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2)
    x += __nvvm_shfl_sync_bfly_f32(0xffffffffu, x, apart, 31);
  SHARED float* shared = (SHARED float*)sums_of_warps;
  wait_for_others();
  if (thread() % 32 == 0) shared[thread() / 32] = x;
  wait_for_others();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i)
    sum += shared[i];
  return sum;
}

// What `has` says of a norm_slope: bits.
constexpr int gain_and_scale = 1, centred = 2, stream = 4;

// Of row i of x [n, d], at position i / count: with t = x gain
//   onto + inverse (t - normalized mean(t normalized) - mean(t)),
// gain [d] and inverse [pos] 1 where `has` does not say so, mean(t) of centred
// norms, `onto` [n, d] if `has` says so. normalized [pos, d]; d a multiple of 8.
template <typename In, typename Out>
DEVICE void norm_slope(
    const In* x,
    const float* onto,
    const float* gain,
    const float* normalized,
    const float* inverse,
    Out* out,
    int count,
    int d,
    int has) {
  const long long at = (long long)block_x() * d;
  const int position = block_x() / count;
  const float* columns = normalized + (long long)position * d;
  const auto t_of = [&](int c) {
    Eight t = eight(x + at + c);
    if (has & gain_and_scale) {
      const Eight by = eight(gain + c);
#pragma unroll
      for (int e = 0; e < 8; ++e)
        t.at[e] *= by.at[e];
    }
    return t;
  };
  float along = 0, sum = 0;
  for (int c = thread() * 8; c < d; c += 256 * 8) {
    const Eight t = t_of(c), column = eight(columns + c);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      along += t.at[e] * column.at[e];
      sum += t.at[e];
    }
  }
  const float share = 1.0f / d;
  along = over_block(along) * share;
  const float mean = has & centred ? over_block(sum) * share : 0;
  const float scale = has & gain_and_scale ? inverse[position] : 1;
  for (int c = thread() * 8; c < d; c += 256 * 8) {
    const Eight t = t_of(c), column = eight(columns + c);
    Eight y;
#pragma unroll
    for (int e = 0; e < 8; ++e)
      y.at[e] = scale * (t.at[e] - column.at[e] * along - mean);
    if (has & stream) {
      const Eight before = eight(onto + at + c);
#pragma unroll
      for (int e = 0; e < 8; ++e)
        y.at[e] += before.at[e];
    }
    write(out + at + c, y);
  }
}

// out [positions, f, d]: a [positions, f] times the rows of up [f, d], and with
// `gated` b times those of gate added. A block is a row of those. d is a
// multiple of 8.
DEVICE void scaled_rows(
    const u16* a,
    const u16* b,
    const u16* up,
    const u16* gate,
    u16* out,
    int positions,
    int f,
    int d,
    int gated) {
  const int row = block_x();
  for (int c = thread() * 8; c < d; c += 256 * 8) {
    const Eight x = eight(up + (long long)row * d + c);
    const Eight y = gated ? eight(gate + (long long)row * d + c) : Eight{};
    for (int p = 0; p < positions; ++p) {
      const float by_up = one(a + p * f + row);
      const float by_gate = gated ? one(b + p * f + row) : 0;
      Eight sum;
#pragma unroll
      for (int e = 0; e < 8; ++e)
        sum.at[e] = by_up * x.at[e] + by_gate * y.at[e];
      write(out + ((long long)p * f + row) * d + c, sum);
    }
  }
}

#define KERNEL \
  extern "C" __attribute__((global)) __attribute__((launch_bounds(256))) void

#define NORM_SLOPE(name, In, Out)                                        \
  KERNEL norm_slope_##name(                                              \
      const In* x,                                                       \
      const float* onto,                                                 \
      const float* gain,                                                 \
      const float* normalized,                                           \
      const float* inverse,                                              \
      Out* out,                                                          \
      int count,                                                         \
      int d,                                                             \
      int has) {                                                         \
    norm_slope(x, onto, gain, normalized, inverse, out, count, d, has);  \
  }

NORM_SLOPE(float32_float32, float, float)
NORM_SLOPE(float32_bfloat16, float, u16)
NORM_SLOPE(bfloat16_float32, u16, float)

KERNEL scaled_rows_bfloat16(
    const u16* a,
    const u16* b,
    const u16* up,
    const u16* gate,
    u16* out,
    int positions,
    int f,
    int d,
    int gated) {
  scaled_rows(a, b, up, gate, out, positions, f, d, gated);
}
