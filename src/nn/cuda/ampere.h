// nn/cuda/ampere.h: whether a CUDA GPU is of Ampere or later.

#pragma once

#include <variant>

#include "mlx/backend/cuda/cuda.h"
#include "mlx/device.h"

namespace mlxterp::cuda {

/** bfloat16 is computed with by instructions that came with it. */
inline bool has_ampere() {
  static const bool has = [] {
    if (!mlx::core::cu::is_available()) return false;
    const auto& info = mlx::core::device_info(mlx::core::Device::gpu);
    const auto major = info.find("compute_capability_major");
    if (major == info.end()) return false;
    const auto* number = std::get_if<size_t>(&major->second);
    return number && *number >= 8;
  }();
  return has;
}

}  // namespace mlxterp::cuda
