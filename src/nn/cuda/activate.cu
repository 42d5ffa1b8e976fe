// One gated or plain activation in one kernel: what MLX's own ops take three
// to twelve for. scripts/make_ptx.sh turns it into activate_ptx.h; it needs
// clang alone, and includes nothing of CUDA's.

#define DEVICE __attribute__((device)) inline
#define KERNEL extern "C" __attribute__((global)) void

typedef unsigned int u32;
typedef unsigned short u16;

struct Bfloat16 {
  static DEVICE float wide(u16 bits) {
    return __builtin_bit_cast(float, static_cast<u32>(bits) << 16);
  }
  static DEVICE u16 narrow(float x) {
    u16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
  }
};
struct Float16 {
  static DEVICE float wide(u16 bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
  }
  static DEVICE u16 narrow(float x) {
    u16 bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
  }
};

// 1 / (1 + e^-x)
DEVICE float sigmoid(float x) {
  float power, share;
  asm("ex2.approx.f32 %0, %1;" : "=f"(power) : "f"(x * -1.44269504f));
  asm("rcp.approx.f32 %0, %1;" : "=f"(share) : "f"(1.0f + power));
  return share;
}

struct Silu {
  static DEVICE float of(float x) { return x * sigmoid(x); }
};
// (1 + tanh(u)) / 2 is sigmoid(2 u).
struct GeluTanh {
  static DEVICE float of(float x) {
    return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x));
  }
};

struct alignas(8) Four {
  u16 at[4];
};

// A view that starts inside a buffer may stand anywhere: then one by one.
DEVICE bool aligned(const u16* x) {
  return reinterpret_cast<unsigned long>(x) % sizeof(Four) == 0;
}
DEVICE Four load(const u16* x, u32 i) {
  if (aligned(x)) return reinterpret_cast<const Four*>(x)[i];
  return {x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]};
}

// `out` is a whole buffer. Where x is not gated, `by` is null.
template <typename Activation, typename T>
DEVICE void activate(const u16* x, const u16* by, Four* out, u32 fours) {
  const u32 i =
      __nvvm_read_ptx_sreg_ctaid_x() * __nvvm_read_ptx_sreg_ntid_x() +
      __nvvm_read_ptx_sreg_tid_x();
  if (i >= fours) return;
  const Four a = load(x, i), b = by ? load(by, i) : Four{};
  Four y;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    float value = Activation::of(T::wide(a.at[j]));
    if (by) value *= T::wide(b.at[j]);
    y.at[j] = T::narrow(value);
  }
  out[i] = y;
}

#define ONE(name, Activation, T)                                \
  KERNEL name(const u16* x, Four* out, u32 fours) {                \
    activate<Activation, T>(x, nullptr, out, fours);                \
  }                                                             \
  KERNEL name##_times(                                          \
      const u16* x, const u16* by, Four* out, u32 fours) {        \
    activate<Activation, T>(x, by, out, fours);                     \
  }

ONE(silu_bfloat16, Silu, Bfloat16)
ONE(silu_float16, Silu, Float16)
ONE(gelu_tanh_bfloat16, GeluTanh, Bfloat16)
ONE(gelu_tanh_float16, GeluTanh, Float16)
