// Rows times packed matrices, of every number of bits, groups, and as many rows
// as each of a device's ways takes: on a CPU nn/packed_product.h, on a CUDA GPU
// nn/cuda/packed_rows.h.

#include <gtest/gtest.h>

#include <cmath>

#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlx/transforms.h"
#include "mlxterp/nn/matrix.h"
#include "tests/compare.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

// The largest error, of the largest value.
double error_of(const nn::Matrix& matrix, int rows, size_t& compared) {
  const auto dense = mx::astype(matrix.numbers(), mx::float32);
  const auto x = mx::astype(
      mx::random::normal({1, rows, dense.shape(1)}, mx::float32),
      matrix.dtype());
  const auto wanted =
      mx::matmul(mx::astype(x, mx::float32), mx::transpose(dense));
  const auto y = matrix.times(x);
  EXPECT_EQ(y.dtype(), matrix.dtype());
  if (y.shape() != wanted.shape()) return std::nan("");
  compared += y.size();
  return test::max_difference(mx::astype(y, mx::float32), wanted) /
         test::max_magnitude(wanted);
}

TEST(PackedRows, AreThoseOfTheUnpackedMatrix) {
  const bool gpu = mx::default_device() == mx::Device::gpu;
  size_t compared = 0;
  double worst = 0, worst_half = 0;
  for (const int bits : {2, 3, 4, 5, 6, 8})
    for (const int group : {32, 64, 128})
      // Columns that fill no whole step, rows of W that fill no whole block.
      for (const auto& [n, columns] : {std::pair{130, 384}, {64, 128}}) {
        const auto w = mx::random::normal({n, columns}, mx::float32);
        for (const auto dtype : {mx::float32, mx::bfloat16}) {
          const auto parts = mx::quantize(mx::astype(w, dtype), group, bits);
          const nn::Matrix matrix(
              {.words = parts[0],
               .scales = parts[1],
               .biases = parts[2],
               .group = group,
               .bits = bits,
               .mode = "affine"},
              dtype);
          const bool half = dtype == mx::bfloat16;
          // A bfloat16 is right to 2^-9 of itself, MLX's own product of one
          // row to 4.6e-3 of the largest; a GPU may multiply float32 as TF32.
          const double most = half ? 0x1p-7 : gpu ? 2e-3 : 1e-5;
          auto& largest = half ? worst_half : worst;
          for (const int rows : {1, 2, 7, 16, 17, 33, 64, 127, 128, 129}) {
            const double error = error_of(matrix, rows, compared);
            EXPECT_LE(error, most) << bits << " bits, group " << group << ", "
                                   << rows << " rows, " << half;
            largest = std::max(largest, error);
          }
        }
      }
  EXPECT_EQ(compared, 2u * 6 * 3 * (130 + 64) * 524);
  std::printf(
      "%zu values, largest error %.1e, of bfloat16 %.1e\n",
      compared,
      worst,
      worst_half);
}

// One of a matrix larger than what is unpacked at a time, and its derivative.
TEST(PackedRows, OfALargeMatrixAndTheirDerivative) {
  const auto parts = mx::quantize(mx::random::normal({1000, 1024}), 64, 4);
  const nn::Matrix matrix(
      {.words = parts[0],
       .scales = parts[1],
       .biases = parts[2],
       .group = 64,
       .bits = 4,
       .mode = "affine"},
      mx::float32);
  size_t compared = 0;
  const double most = mx::default_device() == mx::Device::gpu ? 2e-3 : 1e-5;
  for (const int rows : {1, 70})
    EXPECT_LE(error_of(matrix, rows, compared), most) << rows;
  EXPECT_EQ(compared, 71000u);
  const auto x = mx::random::normal({3, 1024}),
             c = mx::random::normal({3, 1000});
  const auto d = mx::vjp(
                     [&](const std::vector<mx::array>& in) {
                       return std::vector{matrix.times(in[0])};
                     },
                     {x},
                     {c})
                     .second[0];
  const auto wanted = mx::matmul(c, matrix.numbers());
  EXPECT_LE(
      test::max_difference(d, wanted), most * test::max_magnitude(wanted));
}

// Of a matrix that is not packed, in bfloat16 and with a bias: on a CUDA GPU
// nn/cuda/few_rows.h.
TEST(FewRows, AreThoseOfTheMatrix) {
  size_t compared = 0;
  double worst = 0;
  for (const auto& [n, columns] : {std::pair{130, 384}, {6, 32}, {5000, 544}}) {
    const auto w = mx::astype(mx::random::normal({n, columns}), mx::bfloat16);
    const nn::Matrix matrix(w);
    for (const int rows : {1, 2, 7, 8, 9, 16, 17, 31, 32, 33}) {
      const double error = error_of(matrix, rows, compared);
      EXPECT_LE(error, 0x1p-8) << n << " x " << columns << ", " << rows;
      worst = std::max(worst, error);
      const auto x =
          mx::astype(mx::random::normal({rows, columns}), mx::bfloat16);
      const auto bias = mx::astype(mx::random::normal({n}), mx::bfloat16);
      const auto wanted = mx::add(
          mx::matmul(
              mx::astype(x, mx::float32),
              mx::transpose(mx::astype(w, mx::float32))),
          mx::astype(bias, mx::float32));
      const auto y = mx::astype(matrix.times(x, bias), mx::float32);
      EXPECT_LE(
          test::max_difference(y, wanted), 0x1p-7 * test::max_magnitude(wanted))
          << "with a bias";
      compared += y.size();
    }
  }
  EXPECT_EQ(compared, 2u * (130 + 6 + 5000) * 156);
  std::printf("%zu values, largest error %.1e\n", compared, worst);
}

}  // namespace
}  // namespace mlxterp
