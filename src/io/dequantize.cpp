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
  static constexpr size_t groups_at_once = numbers_at_once / 32;

  // What the file holds of so many numbers.
  struct Buffers {
    std::array<std::byte, numbers_at_once> weights;  // of 8 bits at most
    std::array<std::byte, groups_at_once * 4> scales, biases;
  };

  void read(
      const StoredTensor& tensor,
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
    if (packing_.mode == Mode::mxfp4) {
      read(matrix_.scales, i, count, from.scales);
      for (size_t j = 0; j < count; ++j, out += group)
        mxfp4(from.weights.data() + j * 16, from.scales[j], out);
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

  // FP4 with 2 bits of exponent, 1 of mantissa; the scale is a power of two,
  // of which 255 stands for NaN.
  static void mxfp4(const std::byte* from, std::byte power, float* out) {
    static constexpr std::array<float, 16> values{
        0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    const int exponent = std::to_integer<int>(power);
    const float scale = exponent == 255
                            ? std::numeric_limits<float>::quiet_NaN()
                            : std::ldexp(1.0f, exponent - 127);
    unpack_32<4>(
        from, out, [&](uint32_t code) { return values[code] * scale; });
  }

  const QuantizedMatrix& matrix_;
  const Packing& packing_;
  const Encoding& encoding_;
  std::string_view caller_;
};

}  // namespace

Decoded dequantize(
    const QuantizedMatrix& matrix, const DecodeOptions& options) {
  const auto own = matrix.packing.mode == Mode::mxfp4
                       ? mx::bfloat16
                       : find_encoding(matrix.scales.info.type)->dtype;
  auto decoded =
      decode_made(matrix.info, own, options, Unpacked(matrix, options.caller));
  matrix.weight.file->check_unchanged(options.caller);
  matrix.scales.file->check_unchanged(options.caller);
  if (matrix.biases) matrix.biases->file->check_unchanged(options.caller);
  return decoded;
}

}  // namespace mlxterp
