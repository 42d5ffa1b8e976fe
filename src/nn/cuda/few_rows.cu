// Some rows of bfloat16 times a matrix of the same, which is read once. As
// activate.cu: scripts/make_ptx.sh turns it into few_rows_ptx.h.

#include "device.h"

extern __attribute__((shared)) float sums_of_warps[];

// x [M, K], w [N, K], y [M, N]; K a multiple of 32. A block of 256 threads has
// all M <= 8 * eights rows and 8 * wide columns of y (rows of w); its eight
// warps take 32 numbers of each in turns. A thread has 8 consecutive numbers of
// a row of w and of some of x: products of 16 numbers take four from each of
// four threads, and as both do it does not matter which.
template <int eights, int wide>
DEVICE void few_rows(
    const u16* x, const u16* w, u16* y, int M, int N, int K) {
  constexpr int tiles = (eights + 1) / 2, ahead = eights <= 2 ? 4 : 2;
  const int lane = thread() % 32, warp = thread() / 32;
  const int t = lane % 4, g = lane / 4, n0 = block_x() * 8 * wide;

  // Past their ends any numbers will do: nobody asks.
  const u16 *from_w[wide], *from_x[eights];
#pragma unroll
  for (int i = 0; i < wide; ++i) {
    const int n = n0 + i * 8 + g < N ? n0 + i * 8 + g : N - 1;
    from_w[i] = w + (long long)n * K + t * 8;
  }
#pragma unroll
  for (int i = 0; i < eights; ++i) {
    const int m = i * 8 + g < M ? i * 8 + g : M - 1;
    from_x[i] = x + (long long)m * K + t * 8;
  }

  float sums[tiles][wide][4] = {};
  const auto add = [&](const Four (&some_w)[wide], const Four (&some_x)[eights]) {
#pragma unroll
    for (int m = 0; m < tiles; ++m) {
      const Four a = some_x[2 * m];
      const Four c = 2 * m + 1 < eights ? some_x[2 * m + 1 < eights ? 2 * m + 1 : 0] : Four{0, 0, 0, 0};
#pragma unroll
      for (int i = 0; i < wide; ++i)
        multiply(sums[m][i], a.x, c.x, a.y, c.y, some_w[i].x, some_w[i].y);
#pragma unroll
      for (int i = 0; i < wide; ++i)
        multiply(sums[m][i], a.z, c.z, a.w, c.w, some_w[i].z, some_w[i].w);
    }
  };
  int k = warp * 32;
  for (; k + (ahead - 1) * 256 < K; k += ahead * 256) {
    Four some_w[ahead][wide], some_x[ahead][eights];
#pragma unroll
    for (int j = 0; j < ahead; ++j)
#pragma unroll
      for (int i = 0; i < wide; ++i)
        some_w[j][i] = read_four(from_w[i] + k + j * 256);
#pragma unroll
    for (int j = 0; j < ahead; ++j)
#pragma unroll
      for (int i = 0; i < eights; ++i)
        some_x[j][i] = read_four(from_x[i] + k + j * 256);
#pragma unroll
    for (int j = 0; j < ahead; ++j)
      add(some_w[j], some_x[j]);
  }
  for (; k < K; k += 256) {
    Four some_w[wide], some_x[eights];
#pragma unroll
    for (int i = 0; i < wide; ++i)
      some_w[i] = read_four(from_w[i] + k);
#pragma unroll
    for (int i = 0; i < eights; ++i)
      some_x[i] = read_four(from_x[i] + k);
    add(some_w, some_x);
  }

  // All warps together, and out.
  constexpr int each = tiles * wide * 128;
  SHARED float* shared = (SHARED float*)sums_of_warps;
#pragma unroll
  for (int m = 0; m < tiles; ++m)
#pragma unroll
    for (int i = 0; i < wide; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        shared[warp * each + ((m * wide + i) * 4 + j) * 32 + lane] =
            sums[m][i][j];
  wait_for_others();
  for (int at = thread(); at < each; at += 256) {
    const int l = at % 32, j = at / 32 % 4, i = at / 128 % wide,
              m = at / 128 / wide;
    float sum = 0;
#pragma unroll
    for (int other = 0; other < 8; ++other)
      sum += shared[other * each + at];
    const int row = m * 16 + j / 2 * 8 + l / 4,
              n = n0 + i * 8 + l % 4 * 2 + j % 2;
    u16 rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded) : "f"(sum));
    if (row < M && n < N) y[(long long)row * N + n] = rounded;
  }
}

#define KERNEL(eights, wide)                                               \
  extern "C" __attribute__((global))                                       \
  __attribute__((launch_bounds(256))) void few_rows_##eights##_##wide(     \
      const u16* x, const u16* w, u16* y, int M, int N, int K) {           \
    few_rows<eights, wide>(x, w, y, M, N, K);                              \
  }

KERNEL(1, 2)
KERNEL(1, 4)
KERNEL(2, 2)
KERNEL(2, 4)
KERNEL(4, 2)
KERNEL(4, 4)
