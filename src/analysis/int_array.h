// analysis/int_array.h: numbers as MLX takes them.

#pragma once

#include <vector>

#include "mlx/array.h"

namespace mlxterp {

/** [n], int32. */
inline mlx::core::array int_array(const std::vector<int>& values) {
  return mlx::core::array(
      values.data(), {static_cast<int>(values.size())}, mlx::core::int32);
}

}  // namespace mlxterp
