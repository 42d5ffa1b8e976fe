#include "mlxterp/nn/matrix.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "mlx/backend/metal/metal.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

struct Scales {
  mx::array scales;
  std::optional<mx::array> biases;
};

// As MLX's ops take them.
Scales scales_of(const Packed& packed, mx::Dtype dtype) {
  if (packed.mode != "affine") return {packed.scales, std::nullopt};
  const auto whole = [&](const mx::array& part,
                         const std::optional<mx::array>& by) {
    if (!by) return mx::astype(part, dtype);
    const auto apart =
        mx::unflatten(mx::astype(part, mx::float32), -1, {by->shape(-1), -1});
    const auto times = mx::expand_dims(mx::astype(*by, mx::float32), -1);
    return mx::astype(mx::flatten(mx::multiply(apart, times), -2, -1), dtype);
  };
  return {
      whole(packed.scales, packed.scale_of_scales),
      whole(*packed.biases, packed.scale_of_biases)};
}

mx::array unpack(const Packed& packed, mx::Dtype dtype) {
  if (packed.global_scale) {
    auto rest = packed;
    rest.global_scale.reset();
    // What the largest product of FP4 and FP8 stands for.
    const auto by = mx::divide(*packed.global_scale, mx::array(6.0f * 448.0f));
    return mx::astype(
        mx::multiply(unpack(rest, mx::float32), mx::expand_dims(by, {-1, -2})),
        dtype);
  }
  // Products of two levels need more than half precision.
  const auto precise = packed.scale_of_scales ? mx::float32 : dtype;
  const auto [scales, biases] = scales_of(packed, precise);
  return mx::astype(
      mx::dequantize(
          packed.words,
          scales,
          biases,
          packed.group,
          packed.bits,
          packed.mode,
          std::nullopt,
          precise),
      dtype);
}

Packed taken(const Packed& packed, const mx::array& ids) {
  auto out =
      packed.each([&](const mx::array& x) { return mx::take(x, ids, 0); });
  if (out.global_scale &&
      out.global_scale->ndim() > 0)  // of matrices, not rows
    out.global_scale = mx::take(*out.global_scale, ids, 0);
  return out;
}

// Each row of x through its own of these, [matrix, columns, rows].
mx::array gathered(
    const mx::array& x, const mx::array& stack, const mx::array& which) {
  return mx::gather_mm(x, mx::astype(stack, x.dtype()), std::nullopt, which);
}

// x W^T, of large matrices some rows of W at a time: on a CPU float32 takes
// eight times what four bit does.
mx::array in_pieces(const Packed& packed, mx::Dtype dtype, const mx::array& x) {
  const auto product = [&](const Packed& part) {
    return mx::matmul(x, mx::transpose(unpack(part, dtype)));
  };
  constexpr size_t piece = size_t{1} << 21;  // numbers
  const int rows = packed.words.shape(0);
  const auto columns = static_cast<size_t>(packed.scales.shape(-1)) *
                       static_cast<size_t>(packed.group);
  const int some = static_cast<int>(std::max<size_t>(piece / columns, 1));
  if (mx::default_device() == mx::Device::gpu || rows <= some)
    return product(packed);
  std::vector<mx::array> parts;
  for (int at = 0; at < rows; at += some)
    parts.push_back(product(packed.each([&](const mx::array& part) {
      auto from = mx::Shape(part.ndim(), 0), to = part.shape();
      from[0] = at;
      to[0] = std::min(at + some, rows);
      return mx::slice(part, from, to);
    })));
  return mx::concatenate(std::move(parts), -1);
}

// Whether MLX's own product serves. On a Mac's GPU it does for any number of
// rows; CUDA has one for a single row, and for more compiles half a minute at
// its first use to be slower than unpacking.
bool multiplies_packed(const mx::array& x) {
  if (mx::default_device() != mx::Device::gpu) return false;
  return mx::metal::is_available() ||
         x.size() == static_cast<size_t>(x.shape(-1));
}

}  // namespace

Matrix::Matrix(Packed packed, mx::Dtype dtype)
    : numbers_(0.0f), packed_(std::move(packed)), dtype_(dtype) {}

mx::Shape Matrix::shape() const {
  if (!packed_) return numbers_.shape();
  auto shape = packed_->words.shape();
  shape.back() = packed_->scales.shape(-1) * packed_->group;
  return shape;
}

std::vector<std::pair<std::string, mx::array*>> Matrix::parts() {
  std::vector<std::pair<std::string, mx::array*>> all;
  if (!packed_) return all;
  all.emplace_back("weight", &packed_->words);
  all.emplace_back("scales", &packed_->scales);
  const auto add = [&](const char* name, std::optional<mx::array>& part) {
    if (part) all.emplace_back(name, &*part);
  };
  add("biases", packed_->biases);
  add("scale_of_scales", packed_->scale_of_scales);
  add("scale_of_biases", packed_->scale_of_biases);
  add("global_scale", packed_->global_scale);
  return all;
}

std::vector<std::pair<std::string, const mx::array*>> Matrix::parts() const {
  const auto all = const_cast<Matrix&>(*this).parts();
  return {all.begin(), all.end()};
}

int Matrix::shape(int axis) const {
  const auto all = shape();
  return all[static_cast<size_t>(
      axis < 0 ? axis + static_cast<int>(all.size()) : axis)];
}

mx::array Matrix::numbers() const {
  return packed_ ? unpack(*packed_, dtype()) : numbers_;
}

mx::array Matrix::times(const mx::array& x) const {
  if (!packed_) return mx::matmul(x, mx::transpose(numbers_));
  const auto product = [packed = *packed_,
                        dtype = dtype()](const std::vector<mx::array>& in) {
    const auto& row = in[0];
    if (multiplies_packed(row) && !packed.global_scale) {
      const auto [scales, biases] = scales_of(packed, row.dtype());
      return std::vector{mx::quantized_matmul(
          row,
          packed.words,
          scales,
          biases,
          true,
          packed.group,
          packed.bits,
          packed.mode)};
    }
    return std::vector{in_pieces(packed, dtype, row)};
  };
  if (!x.is_tracer()) return product({x})[0];  // nobody derives it
  const auto backwards = [packed = *packed_, dtype = dtype()](
                             const std::vector<mx::array>&,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<mx::array>&) {
    return std::vector{mx::matmul(cotangents[0], unpack(packed, dtype))};
  };
  return mx::custom_vjp(product, backwards)({x})[0];
}

mx::array Matrix::take(const mx::array& ids) const {
  if (!packed_) return mx::take(numbers_, ids, 0);
  return unpack(taken(*packed_, ids), dtype());
}

mx::array Matrix::gather(const mx::array& x, const mx::array& which) const {
  if (!packed_) return gathered(x, mx::swapaxes(numbers_, 1, 2), which);
  const auto product = [packed = *packed_,
                        which](const std::vector<mx::array>& in) {
    const auto& rows = in[0];
    // Of few rows, only what they chose.
    if (which.size() < static_cast<size_t>(packed.words.shape(0)))
      return std::vector{mx::matmul(
          rows,
          mx::swapaxes(unpack(taken(packed, which), rows.dtype()), -1, -2))};
    return std::vector{gathered(
        rows, mx::swapaxes(unpack(packed, rows.dtype()), 1, 2), which)};
  };
  if (!x.is_tracer()) return product({x})[0];
  const auto backwards = [packed = *packed_, which](
                             const std::vector<mx::array>& in,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<mx::array>&) {
    auto d =
        gathered(cotangents[0], unpack(packed, cotangents[0].dtype()), which);
    if (d.shape(2) != in[0].shape(2)) d = mx::sum(d, 2, true);
    return std::vector{d};
  };
  return mx::custom_vjp(product, backwards)({x})[0];
}

}  // namespace mlxterp::nn
