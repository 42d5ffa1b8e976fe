#include "sae/cuda/sparse_rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "mlx/ops.h"
#include "nn/cuda/launch.h"
#include "sae/cuda/sparse_rows_ptx.h"

namespace mx = mlx::core;

namespace mlxterp::cuda {

namespace {

constexpr int numbers_of_thread = 8, most_chosen = 1024;

const char* type_of(const mx::array& x) {
  if (x.dtype() == mx::float32) return "float32";
  return x.dtype() == mx::bfloat16 ? "bfloat16" : nullptr;
}

bool serves(const mx::array& matrix) {
  return runs_kernels() && type_of(matrix) && matrix.ndim() == 2 &&
         matrix.size() > 0 && matrix.shape(1) % numbers_of_thread == 0;
}

std::vector<mx::array> run(
    const std::string& name,
    const std::vector<mx::array>& in,
    const std::vector<mx::Shape>& shapes,
    const std::vector<mx::Dtype>& dtypes,
    const std::vector<mx::fast::ScalarArg>& numbers,
    Blocks blocks) {
  return launch(
      *sparse_rows_kernels.find(name), in, shapes, dtypes, numbers, blocks);
}

// As many as have something to do of d numbers.
int threads_of(int d) {
  constexpr int warp = 32, most = 256;
  const int needed = (d / numbers_of_thread + warp - 1) / warp * warp;
  return std::min(needed, most);
}

}  // namespace

std::optional<std::pair<mx::array, mx::array>> top_of_rows(
    const mx::array& pre, int k, const std::optional<mx::array>& by) {
  if (!serves(pre) || k < 1 || k > std::min(most_chosen, pre.shape(1)))
    return std::nullopt;
  constexpr int threads = 256;
  // Few of twice as many groups are enough of a sample.
  const int each = k <= threads / 2 ? 1 : most_chosen / threads;
  // Places, keys and a counter: as in sparse_rows.cu.
  const int memory = 2048 * 8 + threads * each * 4 + 4;
  const int rows = pre.shape(0), width = pre.shape(1);
  const auto out =
      run(fmt::format("top_of_rows_{}_{}", each, type_of(pre)),
          {pre, by ? mx::astype(*by, mx::float32) : mx::array(0.0f)},
          {{rows * k}, {rows * k}},
          {mx::int32, mx::float32},
          {width, k, by ? 1 : 0},
          {rows, threads, memory});
  return std::pair(out[0], out[1]);
}

std::optional<std::vector<mx::array>> top_of_all(
    const mx::array& pre, int n, const std::optional<mx::array>& by) {
  if (!serves(pre) || n < 1 || static_cast<size_t>(n) > pre.size())
    return std::nullopt;
  constexpr int threads = 256, limits = 16, bits = 4, memory = limits * 8 * 4;
  const int rows = pre.shape(0), width = pre.shape(1);
  const auto factors = by ? mx::astype(*by, mx::float32) : mx::array(0.0f);
  const auto type = type_of(pre);
  const auto number = [](uint32_t x) { return mx::array(x, mx::uint32); };
  // By row, how many are at least as large as each of 16.
  const auto count = [&](const mx::array& at_least) {
    return run(
        fmt::format("count_above_{}", type),
        {pre, factors, at_least},
        {{rows, limits}},
        {mx::int32},
        {width, by ? 1 : 0},
        {rows, threads, memory})[0];
  };
  // The key of the n-th, four bits at a time: all numbers are above or at 0.
  auto nth = number(0x80000000u);
  const auto steps = mx::arange(0, limits, mx::uint32);
  for (int shift = 32 - 2 * bits + 3; shift > -bits; shift -= bits) {
    const int by_bits = std::max(shift, 0);
    const auto tried = mx::add(
        nth, mx::left_shift(steps, number(static_cast<uint32_t>(by_bits))));
    const auto enough =
        mx::greater_equal(mx::sum(count(tried), 0), mx::array(n));
    // The first is there in any case; those that are, come first.
    const auto last =
        mx::subtract(mx::sum(mx::astype(enough, mx::uint32)), number(1));
    nth = mx::add(
        nth, mx::left_shift(last, number(static_cast<uint32_t>(by_bits))));
  }
  const auto both = count(mx::concatenate(
      {mx::reshape(nth, {1}),
       mx::full({limits - 1}, mx::add(nth, number(1)), mx::uint32)}));
  const auto column = [&](int i) {
    return mx::squeeze(mx::slice(both, {0, i}, {rows, i + 1}), 1);
  };
  const auto above = column(1), equal = mx::subtract(column(0), above);
  const auto before = [](const mx::array& x) {
    return mx::subtract(mx::cumsum(x), x);
  };
  // Of those that are equal to it as many as are missing, the first.
  const auto missing = mx::subtract(mx::array(n), mx::sum(above));
  const auto equal_before = before(equal);
  const auto start = mx::add(before(above), mx::minimum(equal_before, missing));
  const auto ties = mx::minimum(
      equal, mx::maximum(mx::subtract(missing, equal_before), mx::array(0)));
  return run(
      fmt::format("write_above_{}", type),
      {pre, factors, nth, start, ties},
      {{n}, {n}, {n}},
      {mx::int32, mx::int32, mx::float32},
      {width, by ? 1 : 0},
      {rows, threads, memory});
}

std::optional<mx::array> decode(
    const mx::array& rows,
    const mx::array& cols,
    const mx::array& values,
    const mx::array& W,
    int n_rows) {
  if (!serves(W) || values.size() == 0) return std::nullopt;
  const int d = W.shape(1);
  return run(
      fmt::format("decode_{}", type_of(W)),
      {rows, cols, values, W},
      {{n_rows, d}},
      {mx::float32},
      {values.shape(0), d},
      {n_rows, threads_of(d)})[0];
}

std::optional<std::pair<mx::array, mx::array>> outer(
    const mx::array& rows,
    const mx::array& values,
    const mx::array& order,
    const mx::array& begin,
    const mx::array& G) {
  if (!serves(G) || values.size() == 0) return std::nullopt;
  const int d = G.shape(1), features = begin.shape(0) - 1;
  const auto out =
      run(fmt::format("outer_{}", type_of(G)),
          {rows, values, order, begin, G},
          {{features, d}, {features}},
          {mx::float32, mx::float32},
          {d},
          {features, threads_of(d)});
  return std::pair(out[0], out[1]);
}

std::optional<mx::array> dots(
    const mx::array& rows,
    const mx::array& cols,
    const mx::array& G,
    const mx::array& W) {
  if (!serves(G) || !serves(W) || G.dtype() != W.dtype() || rows.size() == 0)
    return std::nullopt;
  constexpr int warps = 8;
  const int n = rows.shape(0);
  return run(
      fmt::format("dots_{}", type_of(G)),
      {rows, cols, G, W},
      {{n}},
      {mx::float32},
      {n, G.shape(1)},
      {(n + warps - 1) / warps, warps * 32})[0];
}

}  // namespace mlxterp::cuda
