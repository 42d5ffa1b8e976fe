// io/shard_index.h: model.safetensors.index.json, the table of shards.

#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace mlxterp {

/** Where each tensor is: its name and the plain name of its shard's file. */
using WeightMap = std::map<std::string, std::string>;

struct ShardIndex {
  WeightMap map;
  std::optional<uint64_t> total_size;  ///< Of all tensors, if it says.
};

/** Throws bad_data, also for a shard outside the index's folder. */
ShardIndex read_shard_index(
    const std::filesystem::path& path, std::string_view caller);

}  // namespace mlxterp
