#include "nn/packed_product.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <span>
#include <utility>

#include "core/parallel.h"
#include "mlx/ops.h"
#include "mlxterp/core/blas.h"
#include "nn/simd/few_rows.h"
#include "nn/simd/fused.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

constexpr size_t run = 32;  // numbers, so that they fill whole words

// A row of `groups` groups, whose integers lie bit after bit.
template <size_t bits>
void unpack_row(
    const uint32_t* words,
    const float* scales,
    const float* biases,
    size_t groups,
    size_t runs,  // in a group
    float* out) {
  constexpr uint32_t mask = (uint32_t{1} << bits) - 1;
  for (size_t group = 0; group < groups; ++group) {
    const float scale = scales[group], bias = biases[group];
    for (size_t i = 0; i < runs; ++i, words += bits, out += run)
      for (size_t v = 0; v < run; ++v) {
        const size_t word = v * bits / 32, shift = v * bits % 32;
        uint32_t q = words[word] >> shift;
        if (shift + bits > 32) q |= words[word + 1] << (32 - shift);
        out[v] = scale * static_cast<float>(q & mask) + bias;
      }
  }
}

using UnpackRow = decltype(&unpack_row<4>);

UnpackRow unpacks(int bits) {
  switch (bits) {
    case 2:
      return unpack_row<2>;
    case 3:
      return unpack_row<3>;
    case 4:
      return unpack_row<4>;
    case 5:
      return unpack_row<5>;
    case 6:
      return unpack_row<6>;
    case 8:
      return unpack_row<8>;
    default:
      return nullptr;
  }
}

struct Work {
  UnpackRow unpack;
  size_t rows, columns, group;  // of W
  size_t words;                 // of a row of W
};

// Of this many numbers of W at a time, which stay in a core's cache.
constexpr size_t at_a_time = size_t{1} << 17;
// And of this many rows of x, as the loop over them likes it.
constexpr size_t most_x = 64;

void multiply(const Work& w, const std::vector<mx::array>& in, float* out) {
  const auto* x = in[0].data<float>();
  const auto* words = in[1].data<uint32_t>();
  const auto *scales = in[2].data<float>(), *biases = in[3].data<float>();
  const size_t n = in[0].size() / w.columns, groups = w.columns / w.group;
  const size_t each =
      std::min(std::max<size_t>(at_a_time / w.columns, 1), w.rows);
  const size_t tasks = (w.rows + each - 1) / each;
  std::atomic<size_t> next{0};
  split_over_cores(
      tasks,
      1,
      [&](size_t, size_t) {
        std::vector<float> some(each * w.columns);
        std::vector<float> results(each * n);
        for (size_t task; (task = next++) < tasks;) {
          const size_t begin = task * each;
          const size_t rows = std::min(each, w.rows - begin);
          for (size_t i = 0; i < rows; ++i)
            w.unpack(
                words + (begin + i) * w.words,
                scales + (begin + i) * groups,
                biases + (begin + i) * groups,
                groups,
                w.group / run,
                some.data() + i * w.columns);
          for (size_t at = 0; at < n; at += most_x) {
            const simd::Product one{
                x + at * w.columns,
                std::min(most_x, n - at),
                some.data(),
                results.data() + at * rows};
            simd::multiply({rows, w.columns}, {&one, 1}, 1);
          }
          for (size_t row = 0; row < n; ++row)
            std::copy_n(
                results.data() + row * rows, rows, out + row * w.rows + begin);
        }
      },
      compute_threads());
}

}  // namespace

std::optional<mx::array> packed_product(
    const mx::array& x,
    const Packed& packed,
    const mx::array& scales,
    const mx::array& biases,
    std::function<mx::array(const mx::array&)> plain) {
  const auto unpack = unpacks(packed.bits);
  if (!simd::applies_to(x) || x.size() == 0 || !unpack ||
      packed.words.ndim() != 2 || static_cast<size_t>(packed.group) % run != 0)
    return std::nullopt;
  const Work work{
      unpack,
      static_cast<size_t>(packed.words.shape(0)),
      static_cast<size_t>(x.shape(-1)),
      static_cast<size_t>(packed.group),
      static_cast<size_t>(packed.words.shape(1))};
  auto shape = x.shape();
  shape.back() = packed.words.shape(0);
  return simd::fused(
      "packed_product",
      shape,
      {mx::contiguous(x),
       simd::dense(packed.words),
       simd::dense(scales),
       simd::dense(biases)},
      [plain = std::move(plain)](const std::vector<mx::array>& in) {
        return std::vector{plain(in[0])};
      },
      [work](const std::vector<mx::array>& in, float* out) {
        multiply(work, in, out);
      });
}

}  // namespace mlxterp::nn
