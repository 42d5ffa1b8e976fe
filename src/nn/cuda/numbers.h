// nn/cuda/numbers.h: eight numbers of a matrix at a time, whatever it holds;
// for clang alone, behind device.h.

#pragma once

DEVICE float wide(u32 bits) {
  return __builtin_bit_cast(float, bits);
}
DEVICE u32 narrow(float x) {
  u16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

typedef float Floats __attribute__((ext_vector_type(4)));

/** Consecutive ones, in float32. */
struct Eight {
  float at[8];
};
DEVICE Eight eight(const float* from) {
  const Four a = read_four(from), b = read_four(from + 4);
  Eight out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out.at[i] = wide(a[i]);
    out.at[i + 4] = wide(b[i]);
  }
  return out;
}
DEVICE Eight eight(const u16* from) {
  const Four a = read_four(from);
  Eight out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out.at[2 * i] = wide(a[i] << 16);
    out.at[2 * i + 1] = wide(a[i] & 0xffff0000u);
  }
  return out;
}
DEVICE void write(float* to, const Eight& x) {
  ((Floats*)to)[0] = {x.at[0], x.at[1], x.at[2], x.at[3]};
  ((Floats*)to)[1] = {x.at[4], x.at[5], x.at[6], x.at[7]};
}
DEVICE void write(u16* to, const Eight& x) {
  Four all;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    all[i] = narrow(x.at[2 * i]) | narrow(x.at[2 * i + 1]) << 16;
  *(Four*)to = all;
}

DEVICE float one(const float* from) {
  return *from;
}
DEVICE float one(const u16* from) {
  return wide((u32)*from << 16);
}
