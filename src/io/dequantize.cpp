// The numbers of matrices that MLX packed.

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <string_view>

#include "io/input_file.h"
#include "io/quantized.h"

namespace mlxterp {

namespace {

namespace mx = mlx::core;
using Mode = Packing::Mode;

// 32 numbers of `bits` each are `bits` words, the first in the lowest bits.
template <int bits, typename Value>
void unpack_32(const std::byte* from, float* out, const Value& value) {
  static_assert(std::endian::native == std::endian::little);
  std::array<uint32_t, bits> words;
  std::memcpy(words.data(), from, sizeof words);
  constexpr uint32_t mask = (1u << bits) - 1;
  for (size_t i = 0; i < 32; ++i) {
    const size_t at = i * bits / 32, shift = i * bits % 32;
    uint32_t code = words[at] >> shift;
    if (shift + bits > 32) code |= words[at + 1] << (32 - shift);
    out[i] = value(code & mask);
  }
}

/** A matrix's numbers from `first` on; both are whole groups. */
class Unpacked {
 public:
  Unpacked(const QuantizedMatrix& matrix, std::string_view caller)
      : matrix_(matrix),
        packing_(matrix.packing),
        encoding_(*find_encoding(matrix.scales.info.type)),
        caller_(caller) {}

  void operator()(size_t first, size_t n, float* out) const {
    Buffers from;
    for (size_t done = 0; done < n; done += numbers_at_once) {
      const size_t some = std::min(numbers_at_once, n - done);
      unpack(first + done, some, out + done, from);
    }
  }

 private:
  static constexpr size_t numbers_at_once = 4096;
  static constexpr size_t groups_at_once = numbers_at_once / 16;

  // What the file holds of so many numbers.
  struct Buffers {
    std::array<std::byte, numbers_at_once> weights;  // of 8 bits at most
    std::array<std::byte, groups_at_once * 4> scales, biases;
  };

  void read(
      const TensorInFile& tensor,
      size_t at,
      size_t bytes,
      std::span<std::byte> to) const {
    tensor.file->read(tensor.info.offset + at, to.first(bytes), caller_);
  }

  void unpack(size_t first, size_t n, float* out, Buffers& from) const {
    const auto group = static_cast<size_t>(packing_.group);
    const auto bits = static_cast<size_t>(packing_.bits);
    const size_t i = first / group, count = n / group;
    read(matrix_.weight, first * bits / 8, n * bits / 8, from.weights);
    if (packing_.mode != Mode::affine) {
      read(matrix_.scales, i, count, from.scales);
      for (size_t j = 0; j < count; ++j, out += group) {
        const auto* codes = from.weights.data() + j * group * bits / 8;
        const float scale = scale_of(from.scales[j], first + j * group);
        for (size_t k = 0; k < group; ++k)
          out[k] = scale * (bits == 8 ? fp8(codes[k]) : fp4(codes, k));
      }
      return;
    }
    const size_t size = encoding_.bytes;
    read(matrix_.scales, i * size, count * size, from.scales);
    read(*matrix_.biases, i * size, count * size, from.biases);
    std::array<float, groups_at_once> scales, biases;
    encoding_.unpack(from.scales.data(), count, scales.data());
    encoding_.unpack(from.biases.data(), count, biases.data());
    for (size_t j = 0; j < count; ++j, out += group)
      affine(
          from.weights.data() + j * group * bits / 8,
          scales[j],
          biases[j],
          out);
  }

  void affine(
      const std::byte* from, float scale, float bias, float* out) const {
    switch (packing_.bits) {
      case 2:
        return affine<2>(from, scale, bias, out);
      case 3:
        return affine<3>(from, scale, bias, out);
      case 4:
        return affine<4>(from, scale, bias, out);
      case 5:
        return affine<5>(from, scale, bias, out);
      case 6:
        return affine<6>(from, scale, bias, out);
      default:
        return affine<8>(from, scale, bias, out);
    }
  }

  template <int bits>
  void affine(
      const std::byte* from, float scale, float bias, float* out) const {
    const size_t blocks = static_cast<size_t>(packing_.group) / 32;
    for (size_t b = 0; b < blocks; ++b)
      unpack_32<bits>(from + b * 4 * bits, out + b * 32, [&](uint32_t code) {
        return static_cast<float>(code) * scale + bias;
      });
  }

  // Of the group that this number is the first of.
  float scale_of(std::byte code, size_t number) const {
    if (packing_.mode != Mode::nvfp4) {
      // A power of two, of which 255 stands for NaN.
      const int exponent = std::to_integer<int>(code);
      return exponent == 255 ? std::numeric_limits<float>::quiet_NaN()
                             : std::ldexp(1.0f, exponent - 127);
    }
    if (!matrix_.global_scale) return fp8(code);
    // What the largest product of FP4 and FP8 stands for.
    constexpr float largest = 6.0f * 448.0f;
    const auto& shape = matrix_.info.shape;
    const auto size = static_cast<size_t>(shape.back() * shape.end()[-2]);
    std::array<std::byte, 4> bytes{};
    read(*matrix_.global_scale, number / size * 4, 4, bytes);
    float by = 0;
    std::memcpy(&by, bytes.data(), sizeof by);
    return fp8(code) * (by / largest);
  }

  // Number k of a group: 2 bits of exponent, 1 of mantissa.
  static float fp4(const std::byte* codes, size_t k) {
    static constexpr std::array<float, 16> values{
        0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    const auto two = std::to_integer<size_t>(codes[k / 2]);
    return values[k % 2 ? two >> 4 : two & 15];
  }

  // E4M3: 4 bits of exponent, 3 of mantissa, no infinity.
  static float fp8(std::byte code) {
    const int bits = std::to_integer<int>(code);
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float value =
        exponent == 0
            ? std::ldexp(static_cast<float>(mantissa), -9)
            : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    if ((bits & 127) == 127) value = std::numeric_limits<float>::quiet_NaN();
    return bits >> 7 ? -value : value;
  }

  const QuantizedMatrix& matrix_;
  const Packing& packing_;
  const Encoding& encoding_;
  std::string_view caller_;
};

}  // namespace

Decoded dequantize(
    const QuantizedMatrix& matrix, const DecodeOptions& options) {
  const auto own = matrix.packing.mode == Mode::affine
                       ? find_encoding(matrix.scales.info.type)->dtype
                       : mx::bfloat16;
  auto decoded =
      decode_made(matrix.info, own, options, Unpacked(matrix, options.caller));
  matrix.weight.file->check_unchanged(options.caller);
  matrix.scales.file->check_unchanged(options.caller);
  for (const auto* part : {&matrix.biases, &matrix.global_scale})
    if (*part) (*part)->file->check_unchanged(options.caller);
  return decoded;
}

}  // namespace mlxterp
