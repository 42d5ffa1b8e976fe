#include "io/shard_index.h"

#include "core/fail.h"
#include "io/input_file.h"
#include "io/json.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

using nlohmann::json;

ShardIndex read_shard_index(
    const std::filesystem::path& path, std::string_view caller) {
  const auto bad = [&](const std::string& what) {
    fail(
        ErrorKind::bad_data,
        "[{}] {} {}; download the model again",
        caller,
        quoted(path),
        what);
  };
  const std::string text = read_text(path, limits::index_bytes, caller);
  const json index = parse_json(text, caller, quoted(path));
  const auto found = index.find("weight_map");
  if (!index.is_object() || found == index.end() || !found->is_object())
    bad("has no object weight_map");
  if (found->empty() || found->size() > limits::tensors)
    bad(fmt::format(
        "maps {} tensors, not 1 to {}", found->size(), limits::tensors));
  ShardIndex result;
  const json metadata = index.value("metadata", json());
  if (metadata.is_object() && metadata.contains("total_size") &&
      metadata["total_size"].is_number_unsigned())
    result.total_size = metadata["total_size"].get<uint64_t>();
  for (const auto& [tensor, shard] : found->items()) {
    const auto name = shard.is_string() ? shard.get<std::string>() : "";
    const bool plain =
        name.find_first_of(std::string_view("/\\\0", 3)) == name.npos &&
        name.size() <= 255 &&
        std::filesystem::path(name).extension() == ".safetensors";
    if (!plain)
      bad(fmt::format(
          "says that {} is in \"{}\", which is not the plain name of a "
          ".safetensors file in that folder",
          printable(tensor),
          printable(name)));
    result.map.emplace(tensor, name);
  }
  return result;
}

}  // namespace mlxterp
