#include "mlxterp/nn/packed_batch.h"

#include "mlx/ops.h"
#include "mlxterp/nn/pass.h"

namespace mlxterp {

mlx::core::array Pass::gather_output_rows(const mlx::core::array& x) const {
  return last_ ? mlx::core::take(x, *last_, 1) : x;
}

namespace nn {

std::vector<int> PackedBatch::positions() const {
  std::vector<int> all;
  all.reserve(static_cast<size_t>(rows()));
  for (const auto& sequence : sequences)
    for (int i = 0; i < sequence.length; ++i)
      all.push_back(sequence.first + i);
  return all;
}

}  // namespace nn
}  // namespace mlxterp
