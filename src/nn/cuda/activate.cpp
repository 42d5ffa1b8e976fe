#include "nn/cuda/activate.h"

#include <limits>
#include <string>

#include "nn/cuda/activate_ptx.h"
#include "nn/cuda/launch.h"

namespace mx = mlx::core;

namespace mlxterp::cuda {

namespace {

// What the kernel is called, where there is one.
std::string name_of(nn::Activation activation, mx::Dtype dtype, bool times) {
  std::string name;
  if (activation == nn::Activation::silu) name = "silu";
  if (activation == nn::Activation::gelu_tanh) name = "gelu_tanh";
  if (dtype == mx::bfloat16) name += "_bfloat16";
  if (dtype == mx::float16) name += "_float16";
  return times ? name + "_times" : name;
}

}  // namespace

std::optional<mx::array> activate(
    nn::Activation activation,
    const mx::array& x,
    const std::optional<mx::array>& factor) {
  if (!runs_kernels()) return std::nullopt;
  const bool alike =
      !factor || (factor->shape() == x.shape() && factor->dtype() == x.dtype());
  const bool derived = x.is_tracer() || (factor && factor->is_tracer());
  constexpr size_t most = std::numeric_limits<int>::max();  // its indices
  if (!alike || derived || x.size() == 0 || x.size() % 4 != 0 ||
      x.size() > most)
    return std::nullopt;
  const auto kernel =
      activate_kernels.find(name_of(activation, x.dtype(), factor.has_value()));
  if (kernel == activate_kernels.end()) return std::nullopt;
  std::vector<mx::array> inputs{x};
  if (factor) inputs.push_back(*factor);
  const int fours = static_cast<int>(x.size() / 4);
  constexpr int threads = 256;
  const int blocks = fours / threads + (fours % threads > 0 ? 1 : 0);
  return launch(
      *kernel, inputs, {x.shape()}, {x.dtype()}, {fours}, {blocks, threads})[0];
}

}  // namespace mlxterp::cuda
