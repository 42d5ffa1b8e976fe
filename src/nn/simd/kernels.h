// nn/simd/kernels.h: the loops behind the primitives of ops.h, in float32, with
// the widest vectors of the processor they run on. They allocate what they say,
// start threads where there is work for several, and know no MLX.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "mlxterp/nn/mlp.h"
#include "mlxterp/nn/packed_batch.h"

namespace mlxterp::simd {

/** out = act(gate) * up, without `up` act(gate); with `slope` act's derivative
 * in place of act. out may be gate or up. */
void activate(
    nn::Activation activation,
    bool slope,
    const float* gate,
    const float* up,
    float* out,
    size_t n);

/** Each of `rows` rows of n numbers over its root mean square, times weight. */
void rms_norm(
    const float* x,
    const float* weight,
    float eps,
    float* out,
    size_t rows,
    size_t n);

/** The sum of exp(x - most) over n numbers, on this thread. */
double sum_of_exponentials(const float* x, size_t n, float most);

/** A float array [batch, head, pos, d] anywhere in memory. */
struct Heads {
  const float* data;
  std::array<int64_t, 4> strides;
};

struct Rotation {
  size_t batch, heads, rows, d_head;
  size_t dims;           ///< Leading numbers of each head that turn.
  bool interleaved;      ///< Neighbours turn together, not the two halves.
  const float* cosines;  ///< [position, dims / 2], of each pair's angle.
  const float* sines;
  const int* positions = nullptr;  ///< Of each row; else row i stands at i.
};

/** out [batch, head, row, d_head], dense: x turned by its position. */
void rotate(const Rotation& by, const Heads& x, float* out);

struct AttentionShape {
  size_t batch, heads, kv_heads, dest, src, d_head;
  size_t window;  ///< How many sources a destination sees; 0: all before it.
  float scale;
  /** Of each head: a score more in the softmax, whose share mixes nothing. */
  const float* sinks = nullptr;
  /** Of each head: what a score loses with every position between (ALiBi). */
  const float* slopes = nullptr;
  /** A destination sees none before its stretch of so many; 0: no stretches. */
  size_t chunk = 0;
};

/** out [batch, dest, head, d_head]: causal attention, the last destination
 * being the last source. Needs memory for copies of k and v. */
void attend(
    const AttentionShape& shape,
    const Heads& q,
    const Heads& k,
    const Heads& v,
    float* out);

/** The same of the rows of several sequences, q [1, head, row, d_head]: out
 * [row, head, d_head]. Of the shape, batch, dest and src do not count. */
void attend_packed(
    const AttentionShape& shape,
    const nn::PackedBatch& packed,
    const Heads& q,
    const Heads& k,
    const Heads& v,
    float* out);

}  // namespace mlxterp::simd
