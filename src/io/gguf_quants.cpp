#include "io/gguf_quants.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "io/gguf_codes.h"
#include "io/half.h"

namespace mlxterp {

namespace {

template <typename T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float half_at(const std::byte* at) {
  return from_half(load<uint16_t>(at));
}

// The numbers that IQ4's and MXFP4's 4 bits stand for.
constexpr std::array<float, 16> uneven = {
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr std::array<float, 16> four_bit_floats = {
    0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};

void look_up(
    const std::array<float, 16>& table,
    float scale,
    const std::array<uint8_t, 16>& places,
    float* out) {
  for (size_t j = 0; j < 16; ++j) {
    out[j] = scale * table[places[j] & 15];
    out[j + 16] = scale * table[places[j] >> 4];
  }
}

// Q3_K: sixteen scales of 6 bits in 12 bytes, the low halves in the first
// eight (two a byte, 8 apart), the top bits in the last four.
std::array<int, 16> scales_q3(const std::byte* at) {
  const auto b = bytes_at<12>(at);
  std::array<int, 16> s;
  for (size_t i = 0; i < 16; ++i) {
    const int low = i < 8 ? b[i] & 15 : b[i - 8] >> 4;
    const int high = (b[8 + i % 4] >> (2 * (i / 4))) & 3;
    s[i] = (low | (high << 4)) - 32;
  }
  return s;
}

}  // namespace

void unpack_q4_0(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 32, at += 18, out += 32) {
    const float d = half_at(at);
    codes_4bit(at + 2, [&](size_t j, int code) {
      out[j] = d * static_cast<float>(code - 8);
    });
  }
}

void unpack_q4_1(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 32, at += 20, out += 32) {
    const float d = half_at(at);
    const float m = half_at(at + 2);
    codes_4bit(at + 4, [&](size_t j, int code) {
      out[j] = d * static_cast<float>(code) + m;
    });
  }
}

void unpack_q5_0(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 32, at += 22, out += 32) {
    const float d = half_at(at);
    codes_5bit(at + 2, [&](size_t j, int code) {
      out[j] = d * static_cast<float>(code - 16);
    });
  }
}

void unpack_q5_1(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 32, at += 24, out += 32) {
    const float d = half_at(at);
    const float m = half_at(at + 2);
    codes_5bit(at + 4, [&](size_t j, int code) {
      out[j] = d * static_cast<float>(code) + m;
    });
  }
}

void unpack_q8_0(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 32, at += 34, out += 32) {
    const float d = half_at(at);
    const auto q = bytes_at<32>(at + 2);
    for (size_t j = 0; j < 32; ++j)
      out[j] = d * static_cast<float>(static_cast<int8_t>(q[j]));
  }
}

// scales[16] (4 bits scale, 4 bits minimum), 2-bit numbers[64], d, d_min. Each
// half of the block spreads 32 bytes over four runs of 32 numbers.
void unpack_q2_k(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 256, at += 84) {
    const auto scales = bytes_at<16>(at);
    const float d = half_at(at + 80);
    const float d_min = half_at(at + 82);
    for (size_t group = 0; group < 16; ++group, out += 16) {
      const size_t half = group / 8;
      const auto q = bytes_at<16>(at + 16 + 32 * half + 16 * (group % 2));
      const int shift = static_cast<int>(2 * (group % 8 / 2));
      const float scale = d * static_cast<float>(scales[group] & 15);
      const float minimum = d_min * static_cast<float>(scales[group] >> 4);
      for (size_t j = 0; j < 16; ++j)
        out[j] = scale * static_cast<float>((q[j] >> shift) & 3) - minimum;
    }
  }
}

// third bits[32], low 2 bits[64], scales[12], d. Numbers run as in Q2_K; bit
// k of the third bits belongs to the k-th run of 32, and unset it means -4.
void unpack_q3_k(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 256, at += 110) {
    const auto scales = scales_q3(at + 96);
    const float d = half_at(at + 108);
    for (size_t group = 0; group < 16; ++group, out += 16) {
      const size_t half = group / 8;
      const auto third = bytes_at<16>(at + 16 * (group % 2));
      const auto q = bytes_at<16>(at + 32 + 32 * half + 16 * (group % 2));
      const int shift = static_cast<int>(2 * (group % 8 / 2));
      const int bit = static_cast<int>(group / 2);
      const float scale = d * static_cast<float>(scales[group]);
      for (size_t j = 0; j < 16; ++j) {
        const int top = ((third[j] >> bit) & 1) << 2;
        const int number = ((q[j] >> shift) & 3) + top - 4;
        out[j] = scale * static_cast<float>(number);
      }
    }
  }
}

// d, d_min, scales and minima[12], 4-bit numbers[128].
void unpack_q4_k(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 256, at += 144) {
    const float d = half_at(at);
    const float d_min = half_at(at + 2);
    const auto s = scales_6bit(at + 4);
    for (size_t group = 0; group < 8; ++group, out += 32) {
      const float scale = d * static_cast<float>(s.scale[group]);
      const float minimum = d_min * static_cast<float>(s.minimum[group]);
      codes_q4_k(at + 16, group, [&](size_t j, int code) {
        out[j] = scale * static_cast<float>(code) - minimum;
      });
    }
  }
}

// As Q4_K, with the fifth bits[32] before the numbers.
void unpack_q5_k(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 256, at += 176) {
    const float d = half_at(at);
    const float d_min = half_at(at + 2);
    const auto s = scales_6bit(at + 4);
    for (size_t group = 0; group < 8; ++group, out += 32) {
      const float scale = d * static_cast<float>(s.scale[group]);
      const float minimum = d_min * static_cast<float>(s.minimum[group]);
      codes_q5_k(at + 16, group, [&](size_t j, int code) {
        out[j] = scale * static_cast<float>(code) - minimum;
      });
    }
  }
}

// low 4 bits[128], high 2 bits[64], int8 scales[16], d. Each half of the block
// has four runs of 32: the low bits come from 64 bytes (low halves, then high
// halves), the high ones from 32 bytes (two bits a run).
void unpack_q6_k(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 256, at += 210) {
    const auto scales = bytes_at<16>(at + 192);
    const float d = half_at(at + 208);
    for (size_t group = 0; group < 16; ++group, out += 16) {
      const size_t half = group / 8;
      const size_t run = group % 8 / 2;
      const size_t part = 16 * (group % 2);
      const auto low = bytes_at<16>(at + 64 * half + 32 * (run % 2) + part);
      const auto high = bytes_at<16>(at + 128 + 32 * half + part);
      const int low_shift = static_cast<int>(4 * (run / 2));
      const int high_shift = static_cast<int>(2 * run);
      const float scale =
          d * static_cast<float>(static_cast<int8_t>(scales[group]));
      for (size_t j = 0; j < 16; ++j) {
        const int top = ((high[j] >> high_shift) & 3) << 4;
        const int number = (((low[j] >> low_shift) & 15) | top) - 32;
        out[j] = scale * static_cast<float>(number);
      }
    }
  }
}

// d, then 4-bit places in a table of unevenly spaced numbers: low halves first,
// then high ones.
void unpack_iq4_nl(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 32, at += 18, out += 32)
    look_up(uneven, half_at(at), bytes_at<16>(at + 2), out);
}

// d, high two bits of eight scales in 16, their low four in 4 bytes, then
// numbers as in IQ4_NL.
void unpack_iq4_xs(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 256, at += 136) {
    const float d = half_at(at);
    const int high = load<uint16_t>(at + 2);
    const auto low = bytes_at<4>(at + 4);
    for (size_t group = 0; group < 8; ++group, out += 32) {
      const int scale = ((low[group / 2] >> (4 * (group % 2))) & 15) |
                        (((high >> (2 * group)) & 3) << 4);
      look_up(
          uneven,
          d * static_cast<float>(scale - 32),
          bytes_at<16>(at + 8 + 16 * group),
          out);
    }
  }
}

// A power of two, less 127, then 4-bit floats: sign, two bits of exponent, one
// of mantissa (Open Compute Project, Microscaling Formats, 2023).
void unpack_mxfp4(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; i += 32, at += 17, out += 32) {
    const int exponent = load<uint8_t>(at);
    look_up(
        four_bit_floats,
        std::ldexp(1.0f, exponent - 127),
        bytes_at<16>(at + 1),
        out);
  }
}

void unpack_f32(const std::byte* at, size_t n, float* out) {
  std::memcpy(out, at, n * sizeof(float));
}

void unpack_f16(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i)
    out[i] = half_at(at + 2 * i);
}

void unpack_bf16(const std::byte* at, size_t n, float* out) {
  for (size_t i = 0; i < n; ++i)
    out[i] = from_bfloat(load<uint16_t>(at + 2 * i));
}

}  // namespace mlxterp
