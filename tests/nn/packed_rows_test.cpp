// Rows times packed matrices, of every number of bits, groups, and as many rows
// as each of a device's ways takes: on a CUDA GPU nn/cuda/packed_rows.h.

#include <gtest/gtest.h>

#include "mlx/ops.h"
#include "mlx/random.h"
#include "mlxterp/nn/matrix.h"
#include "tests/compare.h"

namespace mlxterp {
namespace {

namespace mx = mlx::core;

TEST(PackedRows, AreThoseOfTheUnpackedMatrix) {
  size_t compared = 0;
  double worst = 0;
  for (const int bits : {2, 3, 4, 5, 6, 8})
    for (const int group : {32, 64, 128})
      // Columns that fill no whole step, rows of W that fill no whole block.
      for (const auto& [n, columns] : {std::pair{130, 384}, {64, 128}}) {
        const auto w = mx::astype(
            mx::random::normal({n, columns}, mx::float32), mx::bfloat16);
        const auto parts = mx::quantize(w, group, bits);
        const nn::Matrix matrix(
            {.words = parts[0],
             .scales = parts[1],
             .biases = parts[2],
             .group = group,
             .bits = bits,
             .mode = "affine"},
            mx::bfloat16);
        const auto dense = mx::astype(matrix.numbers(), mx::float32);
        for (const int rows : {1, 2, 7, 16, 17, 33, 64, 127, 128, 129}) {
          const auto x = mx::astype(
              mx::random::normal({1, rows, columns}, mx::float32),
              mx::bfloat16);
          const auto wanted =
              mx::matmul(mx::astype(x, mx::float32), mx::transpose(dense));
          const auto y = matrix.times(x);
          ASSERT_EQ(y.shape(), wanted.shape());
          ASSERT_EQ(y.dtype(), mx::bfloat16);
          const double error =
              test::max_difference(mx::astype(y, mx::float32), wanted) /
              test::max_magnitude(wanted);
          worst = std::max(worst, error);
          // A bfloat16 is right to 2^-9 of itself; MLX's own product of one row
          // to 4.6e-3 of the largest.
          EXPECT_LE(error, 0x1p-7)
              << bits << " bits, group " << group << ", " << rows << " rows";
          compared += y.size();
        }
      }
  EXPECT_EQ(compared, 6u * 3 * (130 + 64) * 524);
  std::printf("%zu values, largest error %.1e\n", compared, worst);
}

}  // namespace
}  // namespace mlxterp
