// nn/cuda/device.h: what kernels of matrices share; for clang alone, which
// makes them.

#pragma once

#define DEVICE __attribute__((device)) inline __attribute__((always_inline))
#define SHARED __attribute__((address_space(3)))

typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

typedef u32 Four __attribute__((ext_vector_type(4)));

#define SPECIAL(name, value)                 \
  DEVICE int name() {                        \
    int i;                                   \
    asm("mov.u32 %0, " value ";" : "=r"(i)); \
    return i;                                \
  }
SPECIAL(thread, "%%tid.x")
SPECIAL(block_x, "%%ctaid.x")
SPECIAL(block_y, "%%ctaid.y")

DEVICE void wait_for_others() {
  asm volatile("bar.sync 0;" ::: "memory");
}

// c += a b of 16 x 16 and 16 x 8 numbers, by a warp.
DEVICE void multiply(
    float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// By the cache of what is not written.
DEVICE Four read_four(const void* from) {
  u32 x, y, z, w;
  asm("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(x), "=r"(y), "=r"(z), "=r"(w)
      : "l"(from));
  return {x, y, z, w};
}
