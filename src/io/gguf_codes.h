// io/gguf_codes.h: the integers that GGUF's blocks pack, of those types whose
// numbers are a scale times one of them, and a minimum.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace mlxterp {

// Everything is copied out of a block before it is used: the file promises no
// alignment, and the compiler then knows that what is written does not overlap
// it.
template <size_t n>
std::array<uint8_t, n> bytes_at(const std::byte* at) {
  std::array<uint8_t, n> bytes;
  std::memcpy(bytes.data(), at, n);
  return bytes;
}

/** 32 of 4 bits in 16 bytes, those of the low halves first. `out(j, code)`. */
template <typename Out>
void codes_4bit(const std::byte* at, const Out& out) {
  const auto q = bytes_at<16>(at);
  for (uint32_t j = 0; j < 16; ++j) {
    out(j, q[j] & 15);
    out(j + 16, q[j] >> 4);
  }
}

/** The same with the fifth bits, one a number, in 4 bytes before them. */
template <typename Out>
void codes_5bit(const std::byte* at, const Out& out) {
  uint32_t fifth;
  std::memcpy(&fifth, at, sizeof fifth);
  const auto q = bytes_at<16>(at + 4);
  for (uint32_t j = 0; j < 16; ++j) {
    out(j, (q[j] & 15) | static_cast<int>(((fifth >> j) & 1) << 4));
    out(j + 16, (q[j] >> 4) | static_cast<int>(((fifth >> (j + 16)) & 1) << 4));
  }
}

/** Group 0 to 7 of a block of 256, 4 bits each: 32 bytes hold two groups, the
 * low halves and then the high ones. */
template <typename Out>
void codes_q4_k(const std::byte* at, size_t group, const Out& out) {
  const auto q = bytes_at<32>(at + 32 * (group / 2));
  const int shift = static_cast<int>(4 * (group % 2));
  for (size_t j = 0; j < 32; ++j)
    out(j, (q[j] >> shift) & 15);
}

/** The same with the fifth bits in 32 bytes before them: bit k of each belongs
 * to group k. */
template <typename Out>
void codes_q5_k(const std::byte* at, size_t group, const Out& out) {
  const auto fifth = bytes_at<32>(at);
  const auto q = bytes_at<32>(at + 32 + 32 * (group / 2));
  const int shift = static_cast<int>(4 * (group % 2));
  const int bit = static_cast<int>(group);
  for (size_t j = 0; j < 32; ++j)
    out(j, ((q[j] >> shift) & 15) + (((fifth[j] >> bit) & 1) << 4));
}

struct Scales {
  std::array<uint8_t, 8> scale;
  std::array<uint8_t, 8> minimum;
};

/** Q4_K and Q5_K: eight scales and eight minima of 6 bits in 12 bytes. The
 * first four of each fill bytes 0 to 3 and 4 to 7 but for their top two bits,
 * which are the top bits of the last four; whose low halves share bytes 8..11.
 */
inline Scales scales_6bit(const std::byte* at) {
  const auto b = bytes_at<12>(at);
  Scales s;
  for (size_t i = 0; i < 4; ++i) {
    s.scale[i] = b[i] & 63;
    s.minimum[i] = b[i + 4] & 63;
    s.scale[i + 4] = static_cast<uint8_t>((b[i + 8] & 15) | ((b[i] >> 6) << 4));
    s.minimum[i + 4] =
        static_cast<uint8_t>((b[i + 8] >> 4) | ((b[i + 4] >> 6) << 4));
  }
  return s;
}

}  // namespace mlxterp
