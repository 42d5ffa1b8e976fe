#include "analysis/store/manifest.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <system_error>

#include "core/fail.h"
#include "io/json.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/safetensors.h"

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace mlxterp::store {

namespace {

const std::pair<const char*, mx::Dtype> dtypes[] = {
    {"float32", mx::float32},
    {"float16", mx::float16},
    {"bfloat16", mx::bfloat16},
    {"int8", mx::int8},
    {"int16", mx::int16},
    {"int32", mx::int32},
    {"int64", mx::int64},
    {"uint8", mx::uint8},
    {"uint16", mx::uint16},
    {"uint32", mx::uint32},
    {"uint64", mx::uint64},
    {"bool", mx::bool_}};

[[noreturn]] void fail_broken(const fs::path& file, const std::string& what) {
  fail(
      ErrorKind::bad_data,
      "[{}] {} {}; collect anew into another folder",
      function,
      quoted(file),
      what);
}

}  // namespace

std::string shard_name(int64_t shard) {
  return fmt::format("shard-{:05}.safetensors", shard);
}

int64_t shards_of(const fs::path& folder, const std::set<std::string>& names) {
  int64_t count = 0;
  while (names.contains(shard_name(count)))
    ++count;
  constexpr std::string_view before = "shard-";
  for (const auto& name : names) {
    if (!name.starts_with(before)) continue;
    int64_t number = 0;
    std::from_chars(
        name.data() + before.size(), name.data() + name.size(), number);
    if (name == shard_name(number) && number >= count)
      fail_broken(
          folder / shard_name(count),
          fmt::format("is missing, and '{}' is there", printable(name)));
  }
  return count;
}

Json to_json(const StoredTensor& tensor) {
  std::string dtype;
  for (const auto& [name, it] : dtypes)
    if (it == tensor.dtype) dtype = name;
  Json out;
  out["name"] = tensor.name;
  out["shape"] = tensor.shape;
  out["dtype"] = dtype;
  return out;
}

StoredTensor tensor_of(const nlohmann::json& json, const std::string& where) {
  const auto broken = [&] {
    fail(
        ErrorKind::bad_data,
        "[{}] a tensor in {} is not a name, a shape and a dtype; collect anew",
        function,
        where);
  };
  if (!json.is_object() || !json.contains("name") || !json.contains("shape") ||
      !json.contains("dtype") || !json["name"].is_string() ||
      !json["shape"].is_array() ||
      json["shape"].size() + 1 > limits::tensor_dims)
    broken();
  StoredTensor out;
  out.name = json["name"].get<std::string>();
  for (const auto& dim : json["shape"]) {
    if (!dim.is_number_unsigned() || dim.get<uint64_t>() > limits::dim)
      broken();
    out.shape.push_back(dim.get<int>());
  }
  for (const auto& [name, dtype] : dtypes)
    if (json["dtype"] == name) {
      out.dtype = dtype;
      return out;
    }
  broken();
  return out;
}

void check_same(
    const fs::path& folder, nlohmann::json store, nlohmann::json asked) {
  if (asked.value("shard_rows", 0) == 0) store["shard_rows"] = 0;
  asked["tensors"] = store.value("tensors", nlohmann::json());
  if (!asked.value("weights_sha256", nlohmann::json()).is_null())
    asked["model"] = store.value("model", nlohmann::json());
  const auto found = differing_settings(store, asked);
  if (found.empty()) return;
  fail(
      ErrorKind::usage,
      "[{}] the store in {} was made otherwise: {}; ask for the same, or for "
      "another folder",
      function,
      quoted(folder),
      fmt::join(found, "; "));
}

Folder::Folder(const fs::path& path, bool resume)
    : folder_(
          path,
          {.caller = function,
           .what = "store",
           .entry =
               [](const std::string& name) {
                 using enum ResumableFolder::Entry;
                 if (name == manifest_name || name == shard_name(0)) return own;
                 return name.starts_with("shard-") ? part : foreign;
               }},
          resume) {}

Found Folder::find(const nlohmann::json& settings) const {
  std::error_code ignored;
  std::set<std::string> names;
  for (fs::directory_iterator it(folder_.path(), ignored), end; it != end;
       it.increment(ignored))
    names.insert(it->path().filename().string());
  Found found;
  found.complete = names.contains(manifest_name);
  found.shards = shards_of(folder_.path(), names);
  if (found.shards == 0 && found.complete)
    fail_broken(folder_.path() / shard_name(0), "is missing");
  if (found.shards == 0) return found;
  const auto last = folder_.path() / shard_name(found.shards - 1);
  const auto file = Safetensors::open(last);
  const auto& metadata = file.metadata();
  for (const auto* key : {settings_key, place_key, skip_key})
    if (!metadata.contains(key))
      fail_broken(last, fmt::format("does not say its '{}'", key));
  const auto where = fmt::format("the metadata of {}", quoted(last));
  const auto stored = parse_json(metadata.at(settings_key), function, where);
  if (!stored.is_object() || !stored.value("tensors", Json()).is_array() ||
      !stored.value("shard_rows", Json()).is_number_unsigned() ||
      stored["shard_rows"] < 1 || stored["shard_rows"] > limits::dim)
    fail_broken(last, "does not say how it was made");
  check_same(folder_.path(), stored, settings);
  found.shard_rows = stored["shard_rows"].get<int64_t>();
  for (const auto& tensor : stored["tensors"])
    found.tensors.push_back(tensor_of(tensor, where));
  found.place = WindowPlace::from_json(metadata.at(place_key), where);
  const auto skip = parse_json(metadata.at(skip_key), function, where);
  if (!skip.is_number_unsigned() || skip.get<uint64_t>() > limits::dim)
    fail_broken(last, "does not say how many rows to pass over");
  found.skip = skip.get<int64_t>();
  for (const auto& tensor : file.tensors())
    if (tensor.name == row_names[0] && tensor.shape.size() == 1)
      found.rows = (found.shards - 1) * found.shard_rows + tensor.shape[0];
  if (found.skip > found.rows)
    fail_broken(last, "says to pass over more rows than there are");
  ActivationStore::of_files(
      folder_.path(), found.tensors, found.shard_rows, found.rows)
      .check_files();
  if (found.complete) check_manifest(found);
  return found;
}

void Folder::check_manifest(Found& found) const {
  const auto path = folder_.path() / manifest_name;
  const auto said = ActivationStore::open(folder_.path());
  const auto same = [](const StoredTensor& a, const StoredTensor& b) {
    return a.name == b.name && a.shape == b.shape && a.dtype == b.dtype;
  };
  if (said.shard_rows() != found.shard_rows ||
      !std::ranges::equal(said.tensors(), found.tensors, same) ||
      said.rows() < found.rows)
    fail_broken(
        path,
        fmt::format(
            "says {} rows, {} a file, where {} and {} stand, or other tensors",
            said.rows(),
            said.shard_rows(),
            found.rows,
            found.shard_rows));
  if (said.rows() == found.rows) return;
  // The last files went: it goes on behind those that are there.
  if (found.rows % found.shard_rows != 0)
    fail_broken(
        folder_.path() / shard_name(found.shards - 1),
        fmt::format("ends at row {} of {}", found.rows, said.rows()));
  std::error_code error;
  if (!fs::remove(path, error) || error)
    fail(
        ErrorKind::environment,
        "[{}] cannot remove {}, which tells of files that are gone; check its "
        "permissions",
        function,
        quoted(path));
  found.complete = false;
}

}  // namespace mlxterp::store
