// io/gguf_quants.h: the block formats of GGUF, unpacked to float32.

#pragma once

#include <cstddef>

namespace mlxterp {

/** Unpacks `n` numbers, whole blocks, to `out`. `blocks` needs no alignment. */
using Unpack = void (*)(const std::byte* blocks, size_t n, float* out);

// 32 numbers a block: a float16 scale (and in _1 a minimum), then the numbers.
void unpack_q4_0(const std::byte* blocks, size_t n, float* out);
void unpack_q4_1(const std::byte* blocks, size_t n, float* out);
void unpack_q5_0(const std::byte* blocks, size_t n, float* out);
void unpack_q5_1(const std::byte* blocks, size_t n, float* out);
void unpack_q8_0(const std::byte* blocks, size_t n, float* out);

void unpack_iq4_nl(const std::byte* blocks, size_t n, float* out);
void unpack_mxfp4(const std::byte* blocks, size_t n, float* out);

// 256 numbers a block: groups of 16 or 32 with small integer scales (and
// minima), which are multiples of one float16 (or two).
void unpack_q2_k(const std::byte* blocks, size_t n, float* out);
void unpack_q3_k(const std::byte* blocks, size_t n, float* out);
void unpack_q4_k(const std::byte* blocks, size_t n, float* out);
void unpack_q5_k(const std::byte* blocks, size_t n, float* out);
void unpack_q6_k(const std::byte* blocks, size_t n, float* out);
void unpack_iq4_xs(const std::byte* blocks, size_t n, float* out);

// Not quantised, but stored apart from float32.
void unpack_f32(const std::byte* blocks, size_t n, float* out);
void unpack_f16(const std::byte* blocks, size_t n, float* out);
void unpack_bf16(const std::byte* blocks, size_t n, float* out);

}  // namespace mlxterp
