#include "sae/cuda/adam.h"

#include <limits>

#include "nn/cuda/launch.h"
#include "sae/cuda/adam_ptx.h"

namespace mx = mlx::core;

namespace mlxterp::cuda {

std::optional<std::vector<mx::array>> adam(
    const mx::array& parameter,
    const mx::array& first,
    const mx::array& second,
    const mx::array& gradient,
    const AdamNumbers& numbers) {
  constexpr int threads = 256;
  constexpr size_t most = std::numeric_limits<int>::max() - threads;
  if (!runs_kernels() || parameter.size() == 0 || parameter.size() > most)
    return std::nullopt;
  const int n = static_cast<int>(parameter.size());
  const auto& shape = parameter.shape();
  return launch(
      *adam_kernels.find("adam"),
      {parameter, first, second, gradient},
      {shape, shape, shape},
      {mx::float32, mx::float32, mx::float32},
      {n,
       numbers.factor,
       numbers.beta1,
       numbers.beta2,
       numbers.rest1,
       numbers.rest2,
       numbers.step,
       numbers.root,
       numbers.epsilon},
      {(n + threads - 1) / threads, threads});
}

}  // namespace mlxterp::cuda
