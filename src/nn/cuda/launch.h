// nn/cuda/launch.h: how a kernel that came as PTX is run.

#pragma once

#include <map>
#include <string>
#include <vector>

#include "mlx/device.h"
#include "mlx/fast.h"
#include "nn/cuda/ampere.h"

namespace mlxterp::cuda {

/** Whether such kernels run here. */
inline bool runs_kernels() {
  return has_ampere() && mlx::core::default_device() == mlx::core::Device::gpu;
}

struct Blocks {
  int number, threads;
  int memory = 0;  ///< Bytes that a block shares.
};

/** What comes out. Inputs are row-contiguous there, others are copied. */
inline std::vector<mlx::core::array> launch(
    const std::pair<const std::string, std::string>& kernel,
    const std::vector<mlx::core::array>& in,
    const std::vector<mlx::core::Shape>& shapes,
    const std::vector<mlx::core::Dtype>& dtypes,
    const std::vector<mlx::core::fast::ScalarArg>& numbers,
    Blocks blocks) {
  return mlx::core::fast::precompiled_cuda_kernel(
      kernel.first,
      kernel.second,
      in,
      shapes,
      dtypes,
      numbers,
      {blocks.number * blocks.threads, 1, 1},
      {blocks.threads, 1, 1},
      blocks.memory,
      std::nullopt,
      /*ensure_row_contiguous=*/true);
}

}  // namespace mlxterp::cuda
