#include "analysis/store/manifest.h"

#include <fmt/ranges.h>

#include <set>
#include <system_error>

#include "core/fail.h"
#include "io/hub_cache.h"
#include "io/json.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/safetensors.h"

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace mlxterp::store {

namespace {

constexpr const char* lock_name = ".lock";

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

bool is_temporary(const std::string& name) {
  return name.starts_with(".mlxterp-") && name.ends_with(".tmp");
}

// "length 128, and 256 are asked for", of each setting that differs.
void differences(
    const nlohmann::json& store,
    const nlohmann::json& asked,
    const std::string& name,
    std::vector<std::string>& out) {
  if (store == asked) return;
  if (!store.is_object() || !asked.is_object()) {
    const auto shown = [](const nlohmann::json& value) {
      return printable(
          value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
    };
    out.push_back(
        fmt::format("{} {}, asked for {}", name, shown(store), shown(asked)));
    return;
  }
  std::set<std::string> keys;
  for (const auto* object : {&store, &asked})
    for (const auto& [key, value] : object->items())
      keys.insert(key);
  for (const auto& key : keys)
    differences(
        store.value(key, nlohmann::json()),
        asked.value(key, nlohmann::json()),
        name.empty() ? key : name + "." + key,
        out);
}

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
  std::vector<std::string> found;
  differences(store, asked, "", found);
  if (found.empty()) return;
  fail(
      ErrorKind::usage,
      "[{}] the store in {} was made otherwise: {}; ask for the same, or for "
      "another folder",
      function,
      quoted(folder),
      fmt::join(found, "; "));
}

Folder::Folder(const fs::path& path, bool resume) : path_(path) {
  std::error_code error;
  made_ = fs::create_directories(path, error);
  if (error || !fs::is_directory(path, error))
    fail(
        ErrorKind::environment,
        "[{}] cannot make the folder {}{}; check the path and its permissions",
        function,
        quoted(path),
        error ? fmt::format(" ({})", error.message()) : "");
  bool store = false, other = false;
  for (fs::directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    const auto name = it->path().filename().string();
    if (name == manifest_name || name == shard_name(0))
      store = true;
    else if (
        name != lock_name && !is_temporary(name) && !name.starts_with("shard-"))
      other = true;
  }
  if (store && !resume)
    fail(
        ErrorKind::usage,
        "[{}] {} holds a store; ask to resume it, or name another folder",
        function,
        quoted(path));
  if (other && !store)
    fail(
        ErrorKind::usage,
        "[{}] {} holds other files and no store; name an empty or a new folder",
        function,
        quoted(path));
  lock_ = std::make_shared<FileLock>(path / lock_name, [&] {
    fail(
        ErrorKind::environment,
        "[{}] another process writes to {}; wait for it, or name another "
        "folder",
        function,
        quoted(path));
  });
}

Folder::~Folder() {
  std::error_code ignored;
  fs::remove(path_ / lock_name, ignored);
  if (made_) fs::remove(path_, ignored);  // where nothing came into it
}

Found Folder::find(const nlohmann::json& settings) const {
  std::error_code ignored;
  std::set<std::string> names;
  for (fs::directory_iterator it(path_, ignored), end; it != end;
       it.increment(ignored)) {
    const auto name = it->path().filename().string();
    if (is_temporary(name))
      fs::remove(it->path(), ignored);
    else
      names.insert(name);
  }
  Found found;
  found.complete = names.contains(manifest_name);
  while (names.contains(shard_name(found.shards)))
    ++found.shards;
  for (const auto& name : names)
    if (name.starts_with("shard-") && name >= shard_name(found.shards))
      fail_broken(
          path_ / shard_name(found.shards),
          fmt::format("is missing, and '{}' is there", printable(name)));
  if (found.shards == 0 && found.complete)
    fail_broken(path_ / shard_name(0), "is missing");
  if (found.shards == 0) return found;
  const auto last = path_ / shard_name(found.shards - 1);
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
  check_same(path_, stored, settings);
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
  return found;
}

}  // namespace mlxterp::store
