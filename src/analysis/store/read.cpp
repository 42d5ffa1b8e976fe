// How a store is read, at any row.

#include <fmt/ranges.h>

#include <algorithm>
#include <span>
#include <system_error>

#include "analysis/store/manifest.h"
#include "core/fail.h"
#include "io/input_file.h"
#include "io/json.h"
#include "mlxterp/analysis/activation_store.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/safetensors.h"

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace mlxterp {

using namespace store;  // NOLINT(google-build-using-namespace): its own parts

namespace {

constexpr size_t files_open = 64;

// Where `rows` of it lie in a file.
const TensorInfo& found_in(
    const Safetensors& file,
    const StoredTensor& tensor,
    int64_t rows,
    const fs::path& path) {
  std::vector<int64_t> shape = {rows};
  shape.insert(shape.end(), tensor.shape.begin(), tensor.shape.end());
  const auto there =
      std::ranges::find(file.tensors(), tensor.name, &TensorInfo::name);
  if (there == file.tensors().end() || there->shape != shape ||
      there->bytes != static_cast<uint64_t>(rows) * tensor.row_bytes())
    fail(
        ErrorKind::bad_data,
        "[{}] {} has no '{}' of shape [{}], as the manifest says; collect "
        "anew",
        function,
        quoted(path),
        tensor.name,
        fmt::join(shape, ", "));
  return *there;
}

}  // namespace

struct ActivationStore::Shards {
  int64_t count = 0;
  std::map<int64_t, Safetensors> open = {};
};

ActivationStore ActivationStore::open(const fs::path& folder) {
  const auto path = folder / manifest_name;
  std::error_code error;
  if (!fs::exists(path, error) && fs::exists(folder / shard_name(0), error))
    fail(
        ErrorKind::usage,
        "[{}] the store in {} is not complete; resume collecting first",
        function,
        quoted(folder));
  ActivationStore out;
  out.folder_ = folder;
  out.manifest_ = read_text(path, limits::config_bytes, function);
  const auto where = quoted(path);
  const auto json = parse_json(out.manifest_, function, where);
  const auto number = [&](const char* key, int64_t most) {
    const auto found = json.is_object() ? json.find(key) : json.end();
    if (!json.is_object() || found == json.end() ||
        !found->is_number_unsigned() || *found < 1 || *found > most)
      fail(
          ErrorKind::bad_data,
          "[{}] {} has no '{}' from 1 to {}; is it an activation store's?",
          function,
          where,
          key,
          most);
    return found->get<int64_t>();
  };
  if (!json.is_object() || json.value("format", nlohmann::json()) != format)
    fail(
        ErrorKind::bad_data,
        "[{}] {} does not say that its format is {}; is it an activation "
        "store's?",
        function,
        where,
        format);
  constexpr int64_t most = int64_t{1} << 53;
  out.rows_ = number("rows", most);
  out.shard_rows_ = number("shard_rows", static_cast<int64_t>(limits::dim));
  out.shards_ = std::make_shared<Shards>();
  out.shards_->count = number("shards", most);
  if (out.shards_->count != (out.rows_ - 1) / out.shard_rows_ + 1)
    fail(
        ErrorKind::bad_data,
        "[{}] {} says {} rows in {} files of {}, which does not add up; "
        "collect anew",
        function,
        where,
        out.rows_,
        out.shards_->count,
        out.shard_rows_);
  const auto tensors = json.find("tensors");
  if (tensors == json.end() || !tensors->is_array())
    fail(
        ErrorKind::bad_data,
        "[{}] {} has no list of tensors; is it an activation store's?",
        function,
        where);
  for (const auto& tensor : *tensors)
    out.tensors_.push_back(tensor_of(tensor, where));
  return out;
}

ActivationStore ActivationStore::of_files(
    const fs::path& folder,
    std::vector<StoredTensor> tensors,
    int64_t shard_rows,
    int64_t rows) {
  ActivationStore out;
  out.folder_ = folder;
  out.rows_ = rows;
  out.shard_rows_ = shard_rows;
  out.tensors_ = std::move(tensors);
  out.shards_ = std::make_shared<Shards>();
  out.shards_->count = rows > 0 ? (rows - 1) / shard_rows + 1 : 0;
  return out;
}

void ActivationStore::check_files() const {
  for (int64_t shard = 0; shard < shards_->count; ++shard) {
    const auto path = folder_ / shard_name(shard);
    const auto file = Safetensors::open(path);
    const auto held = std::min(shard_rows_, rows_ - shard * shard_rows_);
    for (const auto& it : tensors_)
      static_cast<void>(found_in(file, it, held, path));
  }
}

const StoredTensor& ActivationStore::tensor(const std::string& name) const {
  const auto found = std::ranges::find(tensors_, name, &StoredTensor::name);
  if (found != tensors_.end()) return *found;
  std::vector<std::string> names;
  for (const auto& it : tensors_)
    names.push_back(it.name);
  fail(
      ErrorKind::unknown_name,
      "[{}] {} has no '{}'; it has {}",
      function,
      quoted(folder_),
      printable(name),
      fmt::join(names, ", "));
}

mx::array ActivationStore::read(
    const std::string& name, int64_t begin, int64_t end) const {
  const auto& it = tensor(name);
  if (begin < 0 || end < begin || end > rows_ ||
      end - begin > static_cast<int64_t>(limits::dim))
    fail(
        ErrorKind::out_of_range,
        "[{}] rows {} to {} are none of a store of {}",
        function,
        begin,
        end,
        rows_);
  mx::Shape shape = {static_cast<int>(end - begin)};
  shape.insert(shape.end(), it.shape.begin(), it.shape.end());
  auto data = std::make_unique_for_overwrite<std::byte[]>(
      static_cast<size_t>(end - begin) * it.row_bytes());
  read_into(it, begin, end, data.get());
  return mx::array(data.release(), shape, it.dtype, [](void* bytes) {
    delete[] static_cast<std::byte*>(bytes);
  });
}

void ActivationStore::read_into(
    const StoredTensor& tensor,
    int64_t begin,
    int64_t end,
    std::byte* to) const {
  const auto bytes = tensor.row_bytes();
  while (begin < end) {
    const auto shard = begin / shard_rows_;
    const auto path = folder_ / shard_name(shard);
    auto found = shards_->open.find(shard);
    if (found == shards_->open.end()) {
      if (shards_->open.size() >= files_open) shards_->open.clear();
      found = shards_->open.emplace(shard, Safetensors::open(path)).first;
    }
    const auto& file = found->second;
    const auto first = shard * shard_rows_;
    const auto held = std::min(shard_rows_, rows_ - first);
    const auto& there = found_in(file, tensor, held, path);
    const auto n = std::min(end, first + held) - begin;
    file.file().read(
        there.offset + static_cast<uint64_t>(begin - first) * bytes,
        {to, static_cast<size_t>(n) * bytes},
        function);
    to += static_cast<size_t>(n) * bytes;
    begin += n;
  }
}

}  // namespace mlxterp
