// analysis/store/shard.h: the rows of one file of a store, gathered and written
// while the next one fills.

#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "mlxterp/analysis/activation_store.h"

namespace mlxterp::store {

/** Rows of all tensors, up to a number. A value that is moved. */
class Shard {
 public:
  Shard(const std::vector<StoredTensor>& tensors, int64_t rows);

  int64_t rows() const { return rows_; }
  bool full() const { return rows_ == most_; }
  int64_t room() const { return most_ - rows_; }

  /** `n` rows of every tensor, in their order. */
  void put(const std::vector<const std::byte*>& values, int64_t n);

  /** Writes the file, whole or not at all; no stream of MLX's is needed. */
  void write(
      const std::filesystem::path& path,
      const std::map<std::string, std::string>& metadata) const;

 private:
  const std::vector<StoredTensor>* tensors_;
  int64_t most_, rows_ = 0;
  std::vector<std::unique_ptr<std::byte[]>> data_;
};

/** Writes one shard at a time on a thread of its own. */
class ShardWriter {
 public:
  ShardWriter() = default;
  ShardWriter(const ShardWriter&) = delete;
  ShardWriter& operator=(const ShardWriter&) = delete;

  /** After wait(). */
  void start(
      Shard shard,
      std::filesystem::path path,
      std::map<std::string, std::string> metadata);
  /** Throws what writing threw. */
  void wait();

 private:
  std::future<void> running_;
};

}  // namespace mlxterp::store
