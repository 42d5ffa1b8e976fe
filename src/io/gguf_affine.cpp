#include "io/gguf_affine.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <vector>

#include "core/fail.h"
#include "core/parallel.h"
#include "io/decode.h"
#include "io/gguf_codes.h"
#include "io/half.h"
#include "io/input_file.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr size_t group_size = 32;
constexpr size_t most_groups = 8;  // in a block

// What a block holds.
struct Block {
  uint16_t scale = 0, bias = 0;  // float16
  std::array<uint8_t, most_groups * group_size> codes;
  std::array<uint8_t, most_groups> scales, biases;  // of blocks with groups
};

struct Type {
  std::string_view name;
  size_t bits, bytes, groups;
  void (*read)(const std::byte* at, Block& block);
};

uint16_t half_bits(const std::byte* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof bits);
  return bits;
}

// Exact, but where it is too large.
uint16_t times(uint16_t half, float by) {
  return to_half(from_half(half) * by);
}

auto into(uint8_t* codes) {
  return [codes](size_t j, int code) { codes[j] = static_cast<uint8_t>(code); };
}

void q4_0(const std::byte* at, Block& block) {
  block.scale = half_bits(at);
  block.bias = times(block.scale, -8);
  codes_4bit(at + 2, into(block.codes.data()));
}

void q4_1(const std::byte* at, Block& block) {
  block.scale = half_bits(at);
  block.bias = half_bits(at + 2);
  codes_4bit(at + 4, into(block.codes.data()));
}

void q5_0(const std::byte* at, Block& block) {
  block.scale = half_bits(at);
  block.bias = times(block.scale, -16);
  codes_5bit(at + 2, into(block.codes.data()));
}

void q5_1(const std::byte* at, Block& block) {
  block.scale = half_bits(at);
  block.bias = half_bits(at + 2);
  codes_5bit(at + 4, into(block.codes.data()));
}

void q8_0(const std::byte* at, Block& block) {
  block.scale = half_bits(at);
  block.bias = times(block.scale, -128);
  const auto q = bytes_at<group_size>(at + 2);
  for (size_t j = 0; j < group_size; ++j)
    block.codes[j] = static_cast<uint8_t>(q[j] ^ 128);  // plus 128
}

// Numbers are scale * code - minimum.
void k_scales(const std::byte* at, Block& block) {
  block.scale = half_bits(at);
  block.bias = times(half_bits(at + 2), -1);
  const auto s = scales_6bit(at + 4);
  block.scales = s.scale;
  block.biases = s.minimum;
}

void q4_k(const std::byte* at, Block& block) {
  k_scales(at, block);
  for (size_t group = 0; group < most_groups; ++group)
    codes_q4_k(at + 16, group, into(block.codes.data() + group * group_size));
}

void q5_k(const std::byte* at, Block& block) {
  k_scales(at, block);
  for (size_t group = 0; group < most_groups; ++group)
    codes_q5_k(at + 16, group, into(block.codes.data() + group * group_size));
}

constexpr std::array types{
    Type{"Q4_0", 4, 18, 1, q4_0},
    Type{"Q4_1", 4, 20, 1, q4_1},
    Type{"Q5_0", 5, 22, 1, q5_0},
    Type{"Q5_1", 5, 24, 1, q5_1},
    Type{"Q8_0", 8, 34, 1, q8_0},
    Type{"Q4_K", 4, 144, 8, q4_k},
    Type{"Q5_K", 5, 176, 8, q5_k}};

const Type* find(std::string_view name) {
  const auto found = std::ranges::find(types, name, &Type::name);
  return found == types.end() ? nullptr : &*found;
}

// 32 numbers of `bits` each are `bits` words, the first in the lowest bits.
void pack_32(const uint8_t* codes, size_t bits, uint32_t* words) {
  std::fill(words, words + bits, 0u);
  for (size_t i = 0; i < group_size; ++i) {
    const size_t at = i * bits / 32, shift = i * bits % 32;
    const uint32_t code = codes[i];
    words[at] |= code << shift;
    if (shift + bits > 32) words[at + 1] |= code >> (32 - shift);
  }
}

bool finite(uint16_t half) {
  return (half & 0x7C00) != 0x7C00;
}

}  // namespace

bool is_affine(std::string_view type) {
  return find(type) != nullptr;
}

std::optional<Packed> affine_from_gguf(
    const InputFile& file,
    const TensorInfo& tensor,
    int64_t interleaved_heads,
    std::string_view caller) {
  const auto& type = *find(tensor.type);
  const size_t in_block = type.groups * group_size;
  const auto columns = static_cast<size_t>(tensor.shape.back());
  size_t rows = 1;
  for (size_t axis = 0; axis + 1 < tensor.shape.size(); ++axis)
    rows *= static_cast<size_t>(tensor.shape[axis]);
  if (columns % in_block ||
      rows * (columns / in_block) * type.bytes != tensor.bytes)
    fail(
        ErrorKind::bad_data,
        "[{}] {} is {} {} in {} bytes",
        caller,
        printable(tensor.name),
        tensor.type,
        shown(tensor.shape),
        tensor.bytes);

  const size_t blocks = columns / in_block, groups = columns / group_size;
  const bool two_levels = type.groups > 1;
  std::vector<uint32_t> words(rows * groups * type.bits);
  std::vector<uint16_t> scale(rows * blocks), bias(rows * blocks);
  std::vector<uint8_t> scales(two_levels ? rows * groups : 0),
      biases(scales.size());
  std::atomic<bool> good = true;
  const size_t per_head =
      interleaved_heads > 0 ? rows / static_cast<size_t>(interleaved_heads) : 0;
  constexpr size_t least = 1u << 18;  // numbers for a thread
  split_over_cores(
      rows,
      least / std::max<size_t>(columns, 1),
      [&](size_t begin, size_t end) {
        std::vector<std::byte> row(blocks * type.bytes);
        Block block;
        for (size_t from = begin; from < end; ++from) {
          file.read(tensor.offset + from * row.size(), row, caller);
          // Row 2j + s of a head in the file is its row s * half + j.
          size_t to = from;
          if (per_head > 0) {
            const size_t in_head = from % per_head;
            to = from - in_head + in_head % 2 * (per_head / 2) + in_head / 2;
          }
          for (size_t i = 0; i < blocks; ++i) {
            type.read(row.data() + i * type.bytes, block);
            if (!finite(block.scale) || !finite(block.bias)) good = false;
            scale[to * blocks + i] = block.scale;
            bias[to * blocks + i] = block.bias;
            for (size_t g = 0; g < type.groups; ++g) {
              const size_t at = to * groups + i * type.groups + g;
              pack_32(
                  block.codes.data() + g * group_size,
                  type.bits,
                  words.data() + at * type.bits);
              if (!two_levels) continue;
              scales[at] = block.scales[g];
              biases[at] = block.biases[g];
            }
          }
        }
      });
  file.check_unchanged(caller);
  if (!good) return std::nullopt;

  const auto shape = [&](size_t last) {
    mx::Shape out(tensor.shape.begin(), tensor.shape.end());
    out.back() = static_cast<int>(last);
    return out;
  };
  const auto halves = [&](const std::vector<uint16_t>& bits) {
    return mx::view(
        mx::array(bits.data(), shape(blocks), mx::uint16), mx::float16);
  };
  const auto bytes = [&](const std::vector<uint8_t>& values) {
    return mx::array(values.data(), shape(groups), mx::uint8);
  };
  Packed out{
      mx::array(words.data(), shape(groups * type.bits), mx::uint32),
      two_levels ? bytes(scales) : halves(scale)};
  out.biases = two_levels ? bytes(biases) : halves(bias);
  if (two_levels) {
    out.scale_of_scales = halves(scale);
    out.scale_of_biases = halves(bias);
  }
  out.group = group_size;
  out.bits = static_cast<int>(type.bits);
  return out;
}

}  // namespace mlxterp
