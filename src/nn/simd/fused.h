// nn/simd/fused.h: one of our own loops as an MLX op, for the CPU, where MLX
// takes many steps or scalar ones.

#pragma once

#include <functional>
#include <vector>

#include "mlx/array.h"

namespace mlxterp::simd {

/** The same maths in MLX's ops: what derivatives and vmap are made of. */
using Plain = std::function<std::vector<mlx::core::array>(
    const std::vector<mlx::core::array>&)>;

/** Fills `out` from evaluated inputs, in whatever layout they are. */
using Kernel = std::function<void(
    const std::vector<mlx::core::array>& inputs, float* out)>;

/** From the inputs and what a derivative is of the result, those of each input:
 * where the derivative of Plain would be slow. */
using Back = std::function<std::vector<mlx::core::array>(
    const std::vector<mlx::core::array>& inputs,
    const mlx::core::array& cotangent)>;

/** Whether a float32 op on x would run on the CPU: else use MLX's own. */
bool applies_to(const mlx::core::array& x);

/** x itself where it is made and dense, else a dense copy that is yet to be
 * made: MLX's `contiguous` copies what shares its memory with others. */
mlx::core::array dense(const mlx::core::array& x);

/** The result, lazy, float32 [shape], laid out densely. With `in_place` it may
 * take the place of the first input, of the same shape and dense. `kernel` may
 * throw std::bad_alloc only. */
mlx::core::array fused(
    const char* name,
    const mlx::core::Shape& shape,
    std::vector<mlx::core::array> inputs,
    Plain plain,
    Kernel kernel,
    bool in_place = false,
    Back back = {});

}  // namespace mlxterp::simd
