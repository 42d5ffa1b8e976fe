// sae/cuda/adam.h: a step of Adam in one kernel on a CUDA GPU.

#pragma once

#include <optional>
#include <vector>

#include "mlx/array.h"

namespace mlxterp::cuda {

/** What a step multiplies by, as sae/train/adam.cpp has them. */
struct AdamNumbers {
  float factor;  ///< Of the gradient.
  float beta1, beta2, rest1, rest2, step, root, epsilon;
};

/** The parameter and its two moments after a step, float32; none where there is
 * no such GPU or they are more than its kernel counts. */
std::optional<std::vector<mlx::core::array>> adam(
    const mlx::core::array& parameter,
    const mlx::core::array& first,
    const mlx::core::array& second,
    const mlx::core::array& gradient,
    const AdamNumbers& numbers);

}  // namespace mlxterp::cuda
