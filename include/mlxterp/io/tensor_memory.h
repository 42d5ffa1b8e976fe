// mlxterp/io/tensor_memory.h: memory that the tensors of a model lie in, side
// by side.

#pragma once

#include <cstddef>
#include <optional>

#include "mlx/array.h"

namespace mlxterp {

/**
 * Pieces of memory that many tensors share, each at the beginning of a line of
 * the cache. On Linux they are asked for in large pages, which one tensor alone
 * seldom fills: of 538 MB in the shapes of SmolLM2 a Zen 4 reads 27 GB a second
 * here and 23 where each has memory of its own. A piece is given back with the
 * last of its tensors, so what is soon replaced belongs elsewhere. For one
 * thread.
 */
class TensorMemory {
 public:
  /** An array whose numbers are yet to be written. Throws std::bad_alloc. */
  mlx::core::array take(mlx::core::Shape shape, mlx::core::Dtype dtype);

 private:
  struct Piece {
    mlx::core::array whole;
    size_t used, size;
  };
  static Piece make_piece(size_t bytes);

  std::optional<Piece> piece_;  // that small ones are put into
};

/** An array in memory of its own, as TensorMemory::take. */
mlx::core::array own_memory(mlx::core::Shape shape, mlx::core::Dtype dtype);

}  // namespace mlxterp
