#include "io/gguf_fields.h"

#include <cmath>

namespace mlxterp {

std::vector<int64_t> GgufFields::integers(
    std::string_view field, int64_t count, int64_t least, int64_t most) const {
  const auto name = key(field);
  const auto* each = metadata.find_any<std::vector<int64_t>>(name);
  if (!each)
    return std::vector<int64_t>(
        static_cast<size_t>(count), metadata.integer(name, least, most));
  if (std::cmp_less(each->size(), count))
    metadata.bad(
        "{} of {} has {} entries, fewer than its {} blocks",
        name,
        metadata.name(),
        each->size(),
        count);
  for (const auto n : *each)
    if (n < least || n > most)
      metadata.bad(
          "{} of {} names {}, not from {} to {}",
          name,
          metadata.name(),
          n,
          least,
          most);
  return {each->begin(), each->begin() + count};
}

std::vector<bool> GgufFields::flags(
    std::string_view field, int64_t count) const {
  const auto name = key(field);
  const auto* each =
      metadata.find<std::vector<bool>>(name, "a list of booleans");
  if (!each) return {};
  if (std::cmp_less(each->size(), count))
    metadata.bad(
        "{} of {} has {} entries, fewer than its {} blocks",
        name,
        metadata.name(),
        each->size(),
        count);
  return {each->begin(), each->begin() + count};
}

const TensorInfo* GgufFields::find_tensor(std::string_view name) const {
  const auto& tensors = gguf.tensors();
  const auto found = std::ranges::find(tensors, name, &TensorInfo::name);
  return found == tensors.end() ? nullptr : &*found;
}

std::vector<float> GgufFields::numbers(std::string_view name) const {
  const TensorInfo* tensor = find_tensor(name);
  if (!tensor) metadata.bad("{} lacks {}", metadata.name(), name);
  if (tensor->type != "F32" || tensor->shape.size() != 1)
    metadata.bad("{} of {} is not an F32 vector", name, metadata.name());
  const auto values = gguf.read(*tensor, mlx::core::float32);
  const auto* data = values.data<float>();
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(data[i]) || data[i] <= 0)
      metadata.bad(
          "{} of {} holds {}, not a positive number",
          name,
          metadata.name(),
          data[i]);
  return {data, data + values.size()};
}

}  // namespace mlxterp
