#include "nn/indices.h"

#include <algorithm>

#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

template <typename T>
std::optional<int64_t> first_outside(const mx::array& indices, int size) {
  const auto* data = indices.data<T>();
  const auto* end = data + indices.size();
  const auto* found =
      std::find_if(data, end, [&](T i) { return i < 0 || i >= size; });
  return found == end ? std::nullopt : std::optional<int64_t>(*found);
}

}  // namespace

std::optional<int64_t> outside(const mx::array& indices, int size) {
  if (!mx::issubdtype(indices.dtype(), mx::integer) ||
      !indices.is_available() || indices.is_tracer())
    return std::nullopt;
  if (indices.dtype() == mx::int32 && indices.flags().row_contiguous)
    return first_outside<int32_t>(indices, size);
  auto wide = mx::contiguous(mx::astype(indices, mx::int64));
  wide.eval();
  return first_outside<int64_t>(wide, size);
}

}  // namespace mlxterp::nn
