#include "mlxterp/nn/rope.h"

#include <algorithm>
#include <cmath>

#include "mlx/fast.h"
#include "mlx/ops.h"
#include "nn/simd/fused.h"
#include "nn/simd/kernels.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

// The leading dimensions times a factor; the others as they are.
mx::array scale_leading(const mx::array& x, int dims, float factor) {
  std::vector<float> factors(static_cast<size_t>(x.shape(-1)), 1.0f);
  std::fill_n(factors.begin(), dims, factor);
  const auto by = mx::array(factors.data(), {x.shape(-1)});
  return mx::multiply(x, mx::astype(by, x.dtype()));
}

// Radians to positions of each pair, inverted.
std::vector<float> speeds(
    size_t pairs, float base, const std::vector<float>& wavelengths) {
  std::vector<float> by(pairs);
  const float step = std::log(base) / static_cast<float>(pairs);
  for (size_t i = 0; i < pairs; ++i)
    by[i] = wavelengths.empty() ? std::exp(-static_cast<float>(i) * step)
                                : 1.0f / wavelengths[i];
  return by;
}

// What a prompt of some length turns by.
struct Turn {
  float base;
  std::vector<float> wavelengths;  // empty: those of the base
};

Turn turn_of(const Rope& rope, int length) {
  float base = rope.theta;
  if (rope.dynamic && length > rope.dynamic->context) {
    const float stretch = rope.dynamic->factor * static_cast<float>(length) /
                              static_cast<float>(rope.dynamic->context) -
                          (rope.dynamic->factor - 1.0f);
    const auto d = static_cast<float>(rope.dims);
    base *= std::pow(stretch, d / (d - 2.0f));
  }
  const bool longer = rope.longer && length > rope.longer->beyond;
  return {base, longer ? rope.longer->wavelengths : rope.wavelengths};
}

// `offset`: an int, or an array with the first position of each batch row.
template <typename Offset>
mx::array in_steps(
    const Rope& rope, const Turn& turn, const mx::array& x, Offset offset) {
  // MLX's kernels for a GPU round once; its steps on a CPU, each.
  const bool wide = mx::default_device() == mx::Device::cpu;
  std::optional<mx::array> freqs;
  if (!turn.wavelengths.empty())
    freqs = mx::array(
        turn.wavelengths.data(), {static_cast<int>(turn.wavelengths.size())});
  auto y = mx::fast::rope(
      wide ? mx::astype(x, mx::float32) : x,
      rope.dims,
      rope.interleaved,
      freqs ? std::nullopt : std::optional(turn.base),
      rope.scale,
      offset,
      freqs);
  if (rope.attention_factor != 1.0f)
    y = scale_leading(y, rope.dims, rope.attention_factor);
  return mx::astype(y, x.dtype());
}

// By the definition, where fast::rope cannot: [..., n, d], a position for each
// of the n.
mx::array by_table(
    const Rope& rope,
    const Turn& turn,
    const mx::array& x,
    const mx::array& positions) {
  const int pairs = rope.dims / 2, d = x.shape(-1);
  const auto by =
      speeds(static_cast<size_t>(pairs), turn.base, turn.wavelengths);
  const auto angles = mx::multiply(
      mx::reshape(mx::astype(positions, mx::float32), {-1, 1}),
      mx::multiply(mx::array(by.data(), {1, pairs}), mx::array(rope.scale)));
  const auto factor = mx::array(rope.attention_factor);
  const auto c = mx::multiply(mx::cos(angles), factor);
  const auto s = mx::multiply(mx::sin(angles), factor);
  auto shape = x.shape();
  const auto part = [&](int from, int to) {
    auto begin = mx::Shape(x.ndim(), 0), end = shape;
    begin[begin.size() - 1] = from;
    end[end.size() - 1] = to;
    return mx::slice(x, begin, end);
  };
  const auto turning = mx::astype(part(0, rope.dims), mx::float32);
  auto in_pairs = turning.shape();
  in_pairs.back() = rope.interleaved ? pairs : 2;
  in_pairs.push_back(rope.interleaved ? 2 : pairs);
  const auto split =
      mx::split(mx::reshape(turning, in_pairs), 2, rope.interleaved ? -1 : -2);
  const int axis = rope.interleaved ? -1 : -2;
  const auto a = mx::squeeze(split[0], axis), b = mx::squeeze(split[1], axis);
  const auto turned = mx::reshape(
      mx::stack(
          {mx::subtract(mx::multiply(a, c), mx::multiply(b, s)),
           mx::add(mx::multiply(a, s), mx::multiply(b, c))},
          axis),
      turning.shape());
  const auto out = mx::astype(turned, x.dtype());
  return rope.dims == d ? out : mx::concatenate({out, part(rope.dims, d)}, -1);
}

// MLX's CUDA kernel asks for blocks deeper than CUDA has where few numbers
// turn at each of few positions ("invalid argument", seen in 0.32.4).
bool too_flat(const Rope& rope, int positions) {
  return mx::default_device() == mx::Device::gpu &&
         rope.dims / 2 * positions < 16;
}

bool vectorised(const Rope& rope, const mx::array& x) {
  return simd::applies_to(x) && x.ndim() == 4 && rope.dims % 2 == 0;
}

// Rows of axis 2 stand at first, first + 1, ..., or where `positions` says.
mx::array in_one(
    const Rope& rope,
    const Turn& turn,
    const mx::array& x,
    int first,
    int count,
    std::vector<int> positions,
    simd::Plain plain) {
  const auto pairs = static_cast<size_t>(rope.dims / 2);
  return simd::fused(
      "rope",
      x.shape(),
      {x},
      std::move(plain),
      [rope,
       pairs,
       first,
       count,
       positions = std::move(positions),
       by = speeds(pairs, turn.base, turn.wavelengths)](
          const std::vector<mx::array>& in, float* out) {
        const auto size = [&](int axis) {
          return static_cast<size_t>(in[0].shape(axis));
        };
        std::vector<float> cosines(static_cast<size_t>(count) * pairs);
        std::vector<float> sines(cosines.size());
        for (size_t i = 0; i < cosines.size(); ++i) {
          const size_t position = i / pairs + static_cast<size_t>(first);
          const float angle =
              static_cast<float>(position) * rope.scale * by[i % pairs];
          cosines[i] = rope.attention_factor * std::cos(angle);
          sines[i] = rope.attention_factor * std::sin(angle);
        }
        const auto& strides = in[0].strides();
        simd::rotate(
            {.batch = size(0),
             .heads = size(1),
             .rows = size(2),
             .d_head = size(3),
             .dims = 2 * pairs,
             .interleaved = rope.interleaved,
             .cosines = cosines.data(),
             .sines = sines.data(),
             .positions = positions.empty() ? nullptr : positions.data()},
            {in[0].data<float>(),
             {strides[0], strides[1], strides[2], strides[3]}},
            out);
      });
}

}  // namespace

bool Rope::same_angles(int length, int other) const {
  if (dims == 0 || length == other) return true;
  if (dynamic && std::max(length, other) > dynamic->context) return false;
  return !longer || (length > longer->beyond) == (other > longer->beyond);
}

mx::array Rope::operator()(const mx::array& x, int offset) const {
  const auto turn = turn_of(*this, offset + x.shape(-2));
  if (too_flat(*this, x.shape(-2)))
    return by_table(*this, turn, x, mx::arange(offset, offset + x.shape(-2)));
  if (!vectorised(*this, x)) return in_steps(*this, turn, x, offset);
  return in_one(
      *this,
      turn,
      x,
      offset,
      x.shape(2),
      {},
      [rope = *this, turn, offset](const std::vector<mx::array>& in) {
        return std::vector{in_steps(rope, turn, in[0], offset)};
      });
}

mx::array Rope::operator()(
    const mx::array& x, const PackedBatch& packed) const {
  const auto turn = turn_of(*this, packed.longest);
  auto positions = packed.positions();
  // Each row as a batch of its own, since MLX turns a batch from one position.
  const mx::array where(
      positions.data(), {static_cast<int>(positions.size())}, mx::int32);
  const auto plain =
      [rope = *this, turn, where](const std::vector<mx::array>& in) {
        if (too_flat(rope, 1))
          return std::vector{by_table(rope, turn, in[0], where)};
        const auto rows = mx::transpose(in[0], {2, 1, 0, 3});
        return std::vector{
            mx::transpose(in_steps(rope, turn, rows, where), {2, 1, 0, 3})};
      };
  if (!vectorised(*this, x)) return plain({x})[0];
  return in_one(*this, turn, x, 0, packed.longest, std::move(positions), plain);
}

}  // namespace mlxterp::nn
