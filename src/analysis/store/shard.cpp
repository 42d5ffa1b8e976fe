#include "analysis/store/shard.h"

#include <cstring>
#include <utility>

#include "core/fail.h"
#include "mlxterp/io/safetensors.h"

namespace mx = mlx::core;

namespace mlxterp::store {

Shard::Shard(const std::vector<StoredTensor>& tensors, int64_t rows)
    : tensors_(&tensors), most_(rows) {
  for (const auto& tensor : tensors)
    data_.emplace_back(
        new std::byte[static_cast<size_t>(rows) * tensor.row_bytes()]);
}

void Shard::put(const std::vector<const std::byte*>& values, int64_t n) {
  for (size_t i = 0; i < values.size(); ++i) {
    const auto bytes = (*tensors_)[i].row_bytes();
    std::memcpy(
        data_[i].get() + static_cast<size_t>(rows_) * bytes,
        values[i],
        static_cast<size_t>(n) * bytes);
  }
  rows_ += n;
}

void Shard::write(
    const std::filesystem::path& path,
    const std::map<std::string, std::string>& metadata) const {
  std::vector<std::pair<std::string, mx::array>> arrays;
  for (size_t i = 0; i < data_.size(); ++i) {
    const auto& tensor = (*tensors_)[i];
    mx::Shape shape = {static_cast<int>(rows_)};
    shape.insert(shape.end(), tensor.shape.begin(), tensor.shape.end());
    arrays.emplace_back(
        tensor.name,
        mx::array(data_[i].get(), shape, tensor.dtype, [](void*) {}));
  }
  save_safetensors(path, arrays, metadata);
}

void ShardWriter::start(
    Shard shard,
    std::filesystem::path path,
    std::map<std::string, std::string> metadata) {
  running_ = std::async(
      std::launch::async,
      [shard = std::move(shard),
       path = std::move(path),
       metadata = std::move(metadata)] { shard.write(path, metadata); });
}

void ShardWriter::wait() {
  if (running_.valid()) running_.get();
}

}  // namespace mlxterp::store
