#include "mlxterp/nn/matrix.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "mlx/backend/metal/metal.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "nn/cuda/few_rows.h"
#include "nn/cuda/packed_rows.h"
#include "nn/packed_product.h"
#include "nn/product.h"

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

// x W^T, of large matrices some rows of W at a time: on a CPU float32 takes
// twice what half precision does, and eight times what four bit does. `part`
// makes the rows from..to of W.
template <typename Part>
mx::array in_pieces(
    const mx::Shape& shape, const Part& part, const mx::array& x) {
  constexpr size_t piece = size_t{1} << 21;  // numbers
  const int rows = shape[0];
  const auto columns = static_cast<size_t>(shape[1]);
  const int some = static_cast<int>(std::max<size_t>(piece / columns, 1));
  if (mx::default_device() == mx::Device::gpu || rows <= some)
    return product(x, part(0, rows));
  std::vector<mx::array> parts;
  for (int at = 0; at < rows; at += some)
    parts.push_back(product(x, part(at, std::min(at + some, rows))));
  return mx::concatenate(std::move(parts), -1);
}

mx::array rows_of(const mx::array& x, int from, int to) {
  auto begin = mx::Shape(x.ndim(), 0), end = x.shape();
  begin[0] = from;
  end[0] = to;
  return mx::slice(x, begin, end);
}

// Whether MLX's own product serves. On a Mac's GPU it does for any number of
// rows; CUDA has one for a single row, and for more compiles half a minute at
// its first use to be slower than unpacking (and than cuda::packed_rows).
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
  return packed_ ? unpack(*packed_, dtype()) : mx::astype(numbers_, dtype());
}

mx::array Matrix::rows(int from, int to) const {
  if (!packed_) return mx::astype(rows_of(numbers_, from, to), dtype());
  return unpack(
      packed_->each(
          [&](const mx::array& part) { return rows_of(part, from, to); }),
      dtype());
}

mx::array Matrix::times(
    const mx::array& x, const std::optional<mx::array>& bias) const {
  const bool as_it_is = !packed_ && numbers_.dtype() == dtype();
  if (as_it_is)
    if (auto y = cuda::few_rows(x, numbers_))
      return bias ? mx::add(*y, *bias) : *std::move(y);
  if (as_it_is && bias && !reads_once(x, numbers_))
    return mx::addmm(*bias, x, mx::transpose(numbers_));
  const auto y = as_it_is || (!packed_ && reads_once(x, numbers_))
                     ? product(x, numbers_)
                     : times_in_flight(x);
  return bias ? mx::add(y, *bias) : y;
}

mx::array Matrix::times_in_flight(const mx::array& x) const {
  const auto product = [own = *this](const std::vector<mx::array>& in) {
    const auto& row = in[0];
    const auto& packed = own.packed_;
    if (packed && multiplies_packed(row) && !packed->global_scale) {
      const auto [scales, biases] = scales_of(*packed, row.dtype());
      return std::vector{mx::quantized_matmul(
          row,
          packed->words,
          scales,
          biases,
          true,
          packed->group,
          packed->bits,
          packed->mode)};
    }
    if (packed)
      if (auto some = cuda::packed_rows(row, *packed))
        return std::vector{*std::move(some)};
    const auto plain = [own](const mx::array& rows) {
      return in_pieces(
          own.shape(),
          [&](int from, int to) { return own.rows(from, to); },
          rows);
    };
    if (packed && packed->mode == "affine" && !packed->global_scale &&
        mx::default_device() == mx::Device::cpu) {
      const auto [scales, biases] = scales_of(*packed, mx::float32);
      if (auto all = packed_product(row, *packed, scales, *biases, plain))
        return std::vector{*std::move(all)};
    }
    return std::vector{plain(row)};
  };
  if (!x.is_tracer()) return product({x})[0];  // nobody derives it
  const auto backwards = [own = *this](
                             const std::vector<mx::array>&,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<mx::array>&) {
    return std::vector{mx::matmul(cotangents[0], own.numbers())};
  };
  return mx::custom_vjp(product, backwards)({x})[0];
}

mx::array Matrix::take(const mx::array& ids) const {
  if (!packed_) return mx::astype(mx::take(numbers_, ids, 0), dtype());
  return unpack(taken(*packed_, ids), dtype());
}

mx::array Matrix::gather(const mx::array& x, const mx::array& which) const {
  if (!packed_) return product_of_each(x, numbers_, which);
  const auto product = [packed = *packed_,
                        which](const std::vector<mx::array>& in) {
    const auto& rows = in[0];
    // Of few rows, only what they chose.
    if (which.size() < static_cast<size_t>(packed.words.shape(0)))
      return std::vector{mx::matmul(
          rows,
          mx::swapaxes(unpack(taken(packed, which), rows.dtype()), -1, -2))};
    return std::vector{
        product_of_each(rows, unpack(packed, rows.dtype()), which)};
  };
  if (!x.is_tracer()) return product({x})[0];
  const auto backwards = [packed = *packed_, which](
                             const std::vector<mx::array>& in,
                             const std::vector<mx::array>& cotangents,
                             const std::vector<mx::array>&) {
    const auto& c = cotangents[0];
    auto d = mx::gather_mm(c, unpack(packed, c.dtype()), std::nullopt, which);
    if (d.shape(2) != in[0].shape(2)) d = mx::sum(d, 2, true);
    return std::vector{d};
  };
  return mx::custom_vjp(product, backwards)({x})[0];
}

}  // namespace mlxterp::nn
