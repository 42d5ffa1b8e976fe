#include "nn/product.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "mlx/ops.h"
#include "mlxterp/core/blas.h"
#include "nn/simd/few_rows.h"
#include "nn/simd/fused.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

// Up to here a BLAS loses, which first copies W into an order of its own. All
// matrices of SmolLM2 take two cores of a Zen 4 16 ms for one row, 34 for 16,
// 55 for 32, 91 for 48 and 122 for 64, where OpenBLAS takes 42, 73, 77, 111 and
// 138; they draw level at some 100, on a Zen 3 at 64.
constexpr size_t few = 64;

bool is_half(const mx::array& w) {
  return w.dtype() == mx::float16 || w.dtype() == mx::bfloat16;
}

// Whether the loop can read it where it lies, or it is yet to be made.
bool readable(const mx::array& w) {
  return (w.dtype() == mx::float32 || is_half(w)) && w.size() > 0 &&
         (w.status() == mx::array::unscheduled || w.flags().row_contiguous);
}

simd::MatrixShape shape_of(const mx::array& w) {
  const auto stored = w.dtype() == mx::float16    ? simd::Stored::float16
                      : w.dtype() == mx::bfloat16 ? simd::Stored::bfloat16
                                                  : simd::Stored::float32;
  return {
      static_cast<size_t>(w.shape(-2)),
      static_cast<size_t>(w.shape(-1)),
      stored};
}

mx::array transposed(const mx::array& w, mx::Dtype dtype) {
  return mx::swapaxes(mx::astype(w, dtype), -1, -2);
}

}  // namespace

bool reads_once(const mx::array& x, const mx::array& w) {
  if (!simd::applies_to(x) || x.size() == 0 || w.ndim() != 2 || !readable(w))
    return false;
  const size_t rows = x.size() / static_cast<size_t>(w.shape(1));
  return rows <= few;
}

mx::array product(const mx::array& x, const mx::array& w) {
  const auto plain = [](const std::vector<mx::array>& in) {
    return std::vector{mx::matmul(in[0], transposed(in[1], in[0].dtype()))};
  };
  if (!reads_once(x, w)) return plain({x, w})[0];
  auto shape = x.shape();
  shape.back() = w.shape(0);
  return simd::fused(
      "product",
      shape,
      {mx::contiguous(x), simd::dense(w)},
      plain,
      // NOLINTNEXTLINE(readability-non-const-parameter): the product goes there
      [](const std::vector<mx::array>& in, float* out) {
        const auto by = shape_of(in[1]);
        const simd::Product one{
            in[0].data<float>(),
            in[0].size() / by.columns,
            in[1].data<void>(),
            out};
        simd::multiply(by, {&one, 1}, compute_threads());
      });
}

namespace {

// The rows that go through one matrix, together: each matrix is read once.
void multiply_each(
    const simd::MatrixShape& w,
    const float* x,
    size_t uses,  // how many numbers of `which` read one row of x
    const char* stack,
    size_t matrix_bytes,
    const uint32_t* which,
    size_t n,
    float* out) {
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return which[i]; });
  const auto in = std::make_unique_for_overwrite<float[]>(n * w.columns);
  const auto results = std::make_unique_for_overwrite<float[]>(n * w.rows);
  std::vector<simd::Product> products;
  for (size_t i = 0; i < n; ++i) {
    std::copy_n(
        x + order[i] / uses * w.columns, w.columns, in.get() + i * w.columns);
    if (i == 0 || which[order[i]] != which[order[i - 1]])
      products.push_back(
          {in.get() + i * w.columns,
           0,
           stack + which[order[i]] * matrix_bytes,
           results.get() + i * w.rows});
    ++products.back().rows;
  }
  simd::multiply(w, products, compute_threads());
  for (size_t i = 0; i < n; ++i)
    std::copy_n(results.get() + i * w.rows, w.rows, out + order[i] * w.rows);
}

}  // namespace

mx::array product_of_each(
    const mx::array& x, const mx::array& stack, const mx::array& which) {
  const auto plain = [](const std::vector<mx::array>& in) {
    return std::vector{mx::gather_mm(
        in[0], transposed(in[1], in[0].dtype()), std::nullopt, in[2])};
  };
  // MLX's multiplies row by row on a CPU, for any number of rows.
  if (!simd::applies_to(x) || !readable(stack) || which.size() == 0)
    return plain({x, stack, which})[0];
  auto shape = which.shape();
  shape.insert(shape.end(), {1, stack.shape(1)});
  return simd::fused(
      "product_of_each",
      shape,
      {mx::contiguous(x),
       simd::dense(stack),
       mx::contiguous(mx::astype(which, mx::uint32))},
      plain,
      // NOLINTNEXTLINE(readability-non-const-parameter): the product goes there
      [](const std::vector<mx::array>& in, float* out) {
        const auto by = shape_of(in[1]);
        multiply_each(
            by,
            in[0].data<float>(),
            in[2].size() / (in[0].size() / by.columns),
            in[1].data<char>(),
            by.rows * by.columns * in[1].itemsize(),
            in[2].data<uint32_t>(),
            in[2].size(),
            out);
      });
}

}  // namespace mlxterp::nn
