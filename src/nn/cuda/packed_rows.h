// nn/cuda/packed_rows.h: some rows times a packed matrix on a CUDA GPU, where
// MLX's own product compiles for half a minute.

#pragma once

#include <optional>

#include "mlxterp/io/packed.h"

namespace mlxterp::cuda {

/** x W^T, [..., columns] to [..., rows] in bfloat16, W's numbers rounded as if
 * unpacked; none where it has no kernel for these, or unpacking first is as
 * fast: it takes 4 and 8 bit with a bfloat16 scale and bias, and up to 32 rows
 * of x. */
std::optional<mlx::core::array> packed_rows(
    const mlx::core::array& x, const Packed& packed);

}  // namespace mlxterp::cuda
