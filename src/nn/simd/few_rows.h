// nn/simd/few_rows.h: products of few rows with large matrices. What takes the
// time is reading the matrix, so it is read once, from where it lies; a BLAS
// copies it into an order of its own first, which pays from some rows on.

#pragma once

#include <cstddef>
#include <span>

namespace mlxterp::simd {

/** What a matrix is stored in. It is computed with in float32. */
enum class Stored { float32, float16, bfloat16 };

/** A matrix [rows, columns], row by row without gaps. */
struct MatrixShape {
  size_t rows, columns;
  Stored stored = Stored::float32;
};

/** out [rows, w's rows] = x [rows, columns] by w transposed, all dense. */
struct Product {
  const float* x;
  size_t rows;
  const void* w;
  float* out;
};

/** Multiplies by all of them, whose w are of one shape, by at most so many
 * threads. A row of out does not depend on how many there are. */
void multiply(
    const MatrixShape& w, std::span<const Product> products, size_t threads);

}  // namespace mlxterp::simd
