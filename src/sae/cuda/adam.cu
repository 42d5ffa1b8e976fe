// A step of Adam in one kernel, where MLX's operations read and write everything
// several times. As sparse_rows.cu.

#include "../../nn/cuda/device.h"

#define KERNEL extern "C" __attribute__((global)) void

// n numbers, a thread each; rounded as sae/train/adam.cpp's loop.
KERNEL __attribute__((launch_bounds(256))) adam(
    const float* parameter,
    const float* first,
    const float* second,
    const float* gradient,
    float* moved,
    float* to_first,
    float* to_second,
    int n,
    float factor,
    float beta1,
    float beta2,
    float rest1,
    float rest2,
    float step,
    float root,
    float epsilon) {
  const int i = block_x() * 256 + thread();
  if (i >= n) return;
  const float g = gradient[i] * factor;
  const float m = beta1 * first[i] + rest1 * g;
  const float v = beta2 * second[i] + rest2 * g * g;
  to_first[i] = m;
  to_second[i] = v;
  float length, share;
  asm("sqrt.rn.f32 %0, %1;" : "=f"(length) : "f"(v));
  asm("div.rn.f32 %0, %1, %2;"
      : "=f"(share)
      : "f"(step * m), "f"(length * root + epsilon));
  moved[i] = parameter[i] - share;
}
