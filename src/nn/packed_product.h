// nn/packed_product.h: products with a packed matrix on a CPU, some rows of it
// unpacked at a time and used while they are in the cache. MLX's ops unpack a
// number at a time and, since memory is taken before work begins, much at once.

#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "mlxterp/io/packed.h"

namespace mlxterp::nn {

/** x W^T, [..., columns] to [..., rows]; none where it is not for this: not
 * float32 on a CPU, or not affine. `scales` and `biases` [rows, columns /
 * group] are float32; `plain` is the same of x in MLX's ops. */
std::optional<mlx::core::array> packed_product(
    const mlx::core::array& x,
    const Packed& packed,
    const mlx::core::array& scales,
    const mlx::core::array& biases,
    std::function<mlx::core::array(const mlx::core::array&)> plain);

}  // namespace mlxterp::nn
