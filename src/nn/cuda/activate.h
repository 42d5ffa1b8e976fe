// nn/cuda/activate.h: an activation, with its factor, as one kernel of a CUDA
// GPU, where MLX's own ops read and write the values once a step. Another
// way to one kernel, mx::compile, takes seconds at its first use in a machine.

#pragma once

#include <optional>

#include "mlxterp/nn/mlp.h"

namespace mlxterp::cuda {

/** As nn::activate, rounded once; none where it has no kernel for these, or a
 * derivative is asked for: then use MLX's ops. */
std::optional<mlx::core::array> activate(
    nn::Activation activation,
    const mlx::core::array& x,
    const std::optional<mlx::core::array>& factor);

}  // namespace mlxterp::cuda
