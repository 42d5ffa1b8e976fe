// mlxterp/nn/matrix.h: the matrix of a module, as numbers, in half precision or
// packed.

#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/io/packed.h"

namespace mlxterp::nn {

/**
 * A weight [..., rows, columns], read as y = x W^T. A packed one stays packed:
 * whatever reads its numbers unpacks them anew, as a lazy part of its graph, so
 * that one matrix at a time is in memory, and not even that for a single row on
 * a GPU, or for any number on a Mac's. Backwards too: derivatives unpack again
 * instead of keeping what the forward pass unpacked. One that lies in half
 * precision and is read in float32 does the same, but few rows on a CPU read it
 * as it lies.
 */
class Matrix {
 public:
  explicit Matrix(mlx::core::array numbers) : numbers_(std::move(numbers)) {}

  /** `dtype`: of its numbers, where they are read. */
  Matrix(Packed packed, mlx::core::Dtype dtype);

  /** Numbers in place of what it was. */
  Matrix& operator=(mlx::core::array numbers) {
    return *this = Matrix(std::move(numbers));
  }

  /** Leaves its numbers as they lie, and has them computed with as these. */
  void read_as(mlx::core::Dtype dtype) { dtype_ = dtype; }

  mlx::core::Shape shape() const;
  int shape(int axis) const;
  /** Of its numbers, where they are read. */
  mlx::core::Dtype dtype() const { return dtype_.value_or(numbers_.dtype()); }

  /** Its numbers; of one that lies otherwise a new array at every call. */
  mlx::core::array numbers() const;

  /** x W^T, [..., columns] to [..., rows], and bias [rows]. */
  mlx::core::array times(
      const mlx::core::array& x,
      const std::optional<mlx::core::array>& bias = std::nullopt) const;

  /** The rows of that number, [..., columns]; ids must be in range. */
  mlx::core::array take(const mlx::core::array& ids) const;

  /** Of a stack [matrix, rows, columns], each row through its own one: x
   * [batch, pos, k or 1, 1, columns] and which, [batch, pos, k], to [batch,
   * pos, k, 1, rows]. */
  mlx::core::array gather(
      const mlx::core::array& x, const mlx::core::array& which) const;

  bool is_packed() const { return packed_.has_value(); }

  /** The arrays that a packed one consists of, each with its name in MLX: the
   * words are "weight". None of one that is not. */
  std::vector<std::pair<std::string, mlx::core::array*>> parts();
  std::vector<std::pair<std::string, const mlx::core::array*>> parts() const;

  /** The numbers of one that is not packed, as they lie, for loading and
   * training. */
  mlx::core::array& dense() { return numbers_; }
  const mlx::core::array& dense() const { return numbers_; }

 private:
  // The numbers of rows from..to alone.
  mlx::core::array rows(int from, int to) const;
  // x W^T, unpacking or widening.
  mlx::core::array times_in_flight(const mlx::core::array& x) const;

  mlx::core::array numbers_;  // of a packed one none
  std::optional<Packed> packed_;
  std::optional<mlx::core::Dtype> dtype_;
};

}  // namespace mlxterp::nn
