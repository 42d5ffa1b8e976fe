// Some rows of bfloat16 times a matrix in MLX's affine packing. As activate.cu:
// scripts/make_ptx.sh turns it into packed_rows_ptx.h, and needs clang alone.

#include "device.h"

extern __attribute__((shared)) Four staged_x[];

// Of two numbers each, rounded once.
DEVICE u32 fma2(u32 a, u32 b, u32 c) {
  u32 d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

DEVICE u32 bytes(u32 a, u32 b, u32 which) {
  u32 d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(which));
  return d;
}

// Sixteen bytes into shared memory, in the background; zeros if not `there`.
DEVICE void bring(u32 to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
               "l"(from),
               "r"(there ? 16 : 0)
               : "memory");
}

DEVICE void wait_for_what_is_brought() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

DEVICE u32 read_half(const u16* from) {
  u16 v;
  asm("ld.global.nc.u16 %0, [%1];" : "=h"(v) : "l"(from));
  return v;
}

// Integers v and v + 1 of a run as two bfloat16, exactly.
template <int bits>
DEVICE u32 two(const u32* w, int v) {
  if (bits == 4) {
    const u32 even = w[v / 8] & 0x0f0f0f0f, odd = (w[v / 8] >> 4) & 0x0f0f0f0f;
    const u32 i = v % 8 / 2;
    const u32 q = bytes(even, odd, i * 0x11 + (4 + i) * 0x1100) & 0x00ff00ff;
    // 128 + q has q for its mantissa.
    return fma2(q | 0x43004300, 0x3f803f80, 0xc300c300);
  }
  const u32 at = w[v / 4] >> (8 * (v % 4));
  const auto wide = [](u32 q) {
    return __builtin_bit_cast(
        u32, __builtin_bit_cast(float, 0x4b000000u | q) - 0x1p23f);
  };
  return bytes(wide(at & 0xff), wide((at >> 8) & 0xff), 0x7632);
}

// x [M, K], packed [N, K / 32 * bits], scales and biases [N, K / group], y [M,
// N]. A block of 256 threads has 16 * tiles rows of x and 128 columns of y (rows
// of W), and takes 256 numbers of each at a step: four warps beside each other
// have 32 columns each, and there are two such fours, each with half of the
// numbers. A thread has 32 consecutive numbers of a row of W, as they lie;
// products of 16 numbers take four from each of four threads, so x is read in
// that order too.
template <int bits, int tiles>
DEVICE void packed_rows(
    const u16* x,
    const u32* packed,
    const u16* scales,
    const u16* biases,
    u32* y,
    int M,
    int N,
    int K,
    int group) {
  constexpr int rows = 16 * tiles, wide = 4, stride = 320;  // bytes
  const int lane = thread() % 32, warp = thread() / 32;
  const int column = warp % 4, half = warp / 4, t = lane % 4, g = lane / 4;
  const int n0 = block_x() * 128 + column * 8 * wide, m0 = block_y() * rows;
  const int words = K / 32 * bits, groups = K / group, steps = (K + 255) / 256;
  SHARED char* shared = (SHARED char*)staged_x;

  // Of x, this thread brings 8 numbers of each eighth row.
  const int part = thread() % 32, row0 = thread() / 32;
  const u32 to0 = (u32)(u64)shared + (part / 16 * rows + row0) * stride +
                  (part % 4 * 4 + part % 16 / 4) * 16;
  const u16* from0 = x + (long long)(m0 + row0) * K + part * 8;
  const auto stage = [&](int step) {
    const bool inside = step * 256 + part * 8 < K;
    const u32 to = to0 + step % 2 * (2 * rows * stride);
#pragma unroll
    for (int r = 0; r < 2 * tiles; ++r) {
      const bool there = inside && m0 + row0 + 8 * r < M;
      bring(
          to + r * 8 * stride,
          there ? from0 + step * 256 + (long long)(8 * r) * K : x,
          there);
    }
  };

  // Of W, past its end any numbers will do: x is 0 there, or nobody asks.
  int word0[wide], group0[wide];
#pragma unroll
  for (int i = 0; i < wide; ++i) {
    const int n = n0 + i * 8 + g < N ? n0 + i * 8 + g : N - 1;
    word0[i] = n * words;
    group0[i] = n * groups;
  }
  u32 next[wide][bits], next_scale[wide], next_bias[wide];
  const auto load = [&](int step) {
    int k = step * 256 + half * 128 + t * 32;
    k = k < K ? k : 0;
#pragma unroll
    for (int i = 0; i < wide; ++i) {
#pragma unroll
      for (int j = 0; j < bits; j += 4) {
        const Four v = read_four(packed + word0[i] + k / 32 * bits + j);
        next[i][j] = v.x;
        next[i][j + 1] = v.y;
        next[i][j + 2] = v.z;
        next[i][j + 3] = v.w;
      }
      next_scale[i] = read_half(scales + group0[i] + k / group);
      next_bias[i] = read_half(biases + group0[i] + k / group);
    }
  };

  float sums[tiles][wide][4] = {};
  stage(0);
  load(0);
  for (int step = 0; step < steps; ++step) {
    wait_for_what_is_brought();
    wait_for_others();
    if (step + 1 < steps) stage(step + 1);
    u32 now[wide][bits], scale[wide], bias[wide];
#pragma unroll
    for (int i = 0; i < wide; ++i) {
      scale[i] = next_scale[i] * 0x10001u;
      bias[i] = next_bias[i] * 0x10001u;
#pragma unroll
      for (int j = 0; j < bits; ++j)
        now[i][j] = next[i][j];
    }
    if (step + 1 < steps) load(step + 1);
    SHARED char* staged = shared + (step % 2 * 2 + half) * rows * stride;
#pragma unroll
    for (int eight = 0; eight < 4; ++eight) {
      u32 w[wide][4];
#pragma unroll
      for (int i = 0; i < wide; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          w[i][j] =
              fma2(two<bits>(now[i], 8 * eight + 2 * j), scale[i], bias[i]);
#pragma unroll
      for (int m = 0; m < tiles; ++m) {
        SHARED char* at =
            staged + (m * 16 + g) * stride + (eight * 4 + t) * 16;
        const Four a = *(SHARED Four*)at;
        const Four c = *(SHARED Four*)(at + 8 * stride);
#pragma unroll
        for (int i = 0; i < wide; ++i)
          multiply(sums[m][i], a.x, c.x, a.y, c.y, w[i][0], w[i][1]);
#pragma unroll
        for (int i = 0; i < wide; ++i)
          multiply(sums[m][i], a.z, c.z, a.w, c.w, w[i][2], w[i][3]);
      }
    }
  }

  // Both halves together, and out.
  wait_for_others();
  SHARED float* other =
      (SHARED float*)shared + column * (tiles * wide * 128) + lane;
  if (half == 1)
#pragma unroll
    for (int m = 0; m < tiles; ++m)
#pragma unroll
      for (int i = 0; i < wide; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          other[(m * wide + i) * 128 + j * 32] = sums[m][i][j];
  wait_for_others();
  if (half == 1) return;
#pragma unroll
  for (int m = 0; m < tiles; ++m)
#pragma unroll
    for (int i = 0; i < wide; ++i)
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        const int row = m0 + m * 16 + g + 4 * j, n = n0 + i * 8 + 2 * t;
        SHARED float* both = other + (m * wide + i) * 128 + j * 32;
        u32 pair;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;"
            : "=r"(pair)
            : "f"(sums[m][i][j + 1] + both[32]), "f"(sums[m][i][j] + both[0]));
        if (row < M && n < N) y[((long long)row * N + n) / 2] = pair;
      }
}

#define KERNEL(bits, tiles)                                            \
  extern "C" __attribute__((global))                                   \
  __attribute__((launch_bounds(256))) void packed_rows_##bits##_##tiles( \
      const u16* x,                                                    \
      const u32* packed,                                               \
      const u16* scales,                                               \
      const u16* biases,                                               \
      u32* y,                                                          \
      int M,                                                           \
      int N,                                                           \
      int K,                                                           \
      int group) {                                                     \
    packed_rows<bits, tiles>(                                          \
        x, packed, scales, biases, y, M, N, K, group);                 \
  }

KERNEL(4, 1)
KERNEL(4, 2)
KERNEL(8, 1)
KERNEL(8, 2)
