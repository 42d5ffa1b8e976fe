#include "sae/weight_file.h"

#include <algorithm>
#include <bit>
#include <regex>
#include <span>

#include "core/fail.h"
#include "io/decode.h"
#include "io/input_file.h"
#include "io/npy.h"
#include "io/zip_entries.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/io/npz.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr std::string_view caller = "load_sae";

void check_finite(
    uint64_t not_finite,
    std::string_view name,
    const std::filesystem::path& path) {
  if (not_finite == 0) return;
  fail(
      ErrorKind::bad_data,
      "[{}] {} of {} holds NaN or Inf {} times; take another copy or "
      "checkpoint of it",
      caller,
      printable(name),
      quoted(path),
      not_finite);
}

uint64_t count_not_finite(const mx::array& values) {
  if (!mx::issubdtype(values.dtype(), mx::floating)) return 0;
  const auto wide = mx::contiguous(mx::astype(values, mx::float32));
  mx::eval(wide);
  const auto* at = wide.data<float>();
  constexpr uint32_t exponent = 0x7F800000;
  uint64_t count = 0;
  for (size_t i = 0; i < wide.size(); ++i)  // a loop that is vectorised
    count += (std::bit_cast<uint32_t>(at[i]) & exponent) == exponent;
  return count;
}

struct StoredArray {
  std::string name;
  mx::array values;
  bool checked;  // has neither NaN nor Inf
};

// Where the numbers of a .npy of floats in rows lie, the usual one; its header
// is Python, a dict. Absent: some other .npy.
std::optional<TensorInfo> plain_npy(
    const InputFile& file, const std::string& name, const ZipEntry& entry) {
  constexpr uint64_t before = 10;  // magic, version 1.0, length
  constexpr uint64_t longest = 256;
  const auto start =
      file.text(entry.offset, std::min(entry.bytes, before + longest), caller);
  if (start.size() < before || !start.starts_with(npy_magic) || start[6] != 1)
    return {};
  const uint64_t length = static_cast<unsigned char>(start[8]) |
                          static_cast<unsigned char>(start[9]) << 8;
  if (before + length > start.size()) return {};
  static const std::regex header(
      R"(\{'descr': '<f([24])', 'fortran_order': False, )"
      R"('shape': \(([0-9]{1,9}),(?: ([0-9]{1,9}))?\), \} *\n)");
  std::smatch found;
  const auto text = start.substr(before, length);
  if (!std::regex_match(text, found, header)) return {};
  TensorInfo out;
  out.name = name;
  out.type = found[1] == "4" ? "F32" : "F16";
  out.shape.push_back(std::stoll(found[2]));
  if (found[3].matched) out.shape.push_back(std::stoll(found[3]));
  out.offset = entry.offset + before + length;
  out.bytes = entry.bytes - before - length;
  if (count_bytes(out.shape, *find_encoding(out.type)) != out.bytes) return {};
  return out;
}

// As load_npz, but of entries that are stored as they are and without their
// checksums, which take longer than all the rest. Absent: some are compressed.
std::optional<std::vector<StoredArray>> stored_arrays(
    const std::filesystem::path& path) {
  constexpr std::string_view suffix = ".npy";
  const auto file = InputFile::open(path, caller);
  struct OtherZip {};
  std::map<std::string, ZipEntry> entries;
  try {
    entries =
        stored_entries(*file, caller, [](const auto&) { throw OtherZip(); });
  } catch (const OtherZip&) {
    return {};  // load_npz says what is wrong with it
  }
  uint64_t total = 0;  // an entry may not be read again and again
  for (const auto& [name, entry] : entries)
    total += entry.bytes;
  if (total > file->size()) return {};
  std::vector<StoredArray> out;
  for (const auto& stored : entries) {
    const auto& name = stored.first;
    const auto& entry = stored.second;
    if (!name.ends_with(suffix)) return {};
    const auto own = name.substr(0, name.size() - suffix.size());
    if (const auto info = plain_npy(*file, own, entry)) {
      auto [values, not_finite] =
          decode(*file, *info, {.caller = caller, .dtype = mx::float32});
      check_finite(not_finite, own, path);
      out.push_back({own, std::move(values), true});
      continue;
    }
    uint64_t at = entry.offset;
    const uint64_t end = entry.offset + entry.bytes;
    const auto bad = [&](std::string_view why) {
      return Error(
          ErrorKind::bad_data,
          fmt::format(
              "[{}] '{}' of {} {}; is it a whole .npz of numbers?",
              caller,
              printable(name),
              quoted(path),
              why));
    };
    const NpySource source{
        .caller = caller,
        .size = entry.bytes,
        .error = bad,
        .fill =
            [&](std::span<std::byte> to) {
              if (to.size() > end - at) throw bad("breaks off");
              file->read(at, to, caller);
              at += to.size();
            },
        .shown = quoted(path)};
    out.push_back({own, read_npy(source), false});
  }
  file->check_unchanged(caller);
  return out;
}

}  // namespace

WeightFile WeightFile::open(const std::filesystem::path& path) {
  WeightFile out;
  out.path_ = path;
  std::string start;
  {
    const auto file = InputFile::open(path, caller);
    start = file->text(0, telling_bytes, caller);
  }
  const bool zip = start.starts_with("PK\x03\x04");
  const auto suffix = path.extension().string();
  if (zip && suffix == ".npz") {
    out.kind_ = Kind::npz;
    auto arrays = stored_arrays(path);
    if (!arrays) {
      arrays.emplace();
      for (auto& [name, array] : load_npz(path))
        arrays->push_back({name, std::move(array), false});
    }
    for (auto& [name, values, checked] : *arrays) {
      out.names_.push_back(name);
      if (checked) out.checked_.insert(name);
      out.arrays_.emplace(name, std::move(values));
    }
  } else if (zip || start.starts_with("\x80\x02\x8a\x0a")) {
    out.kind_ = Kind::torch;
    out.torch_ = std::make_shared<const TorchFile>(TorchFile::open(path));
    const auto* dict = &out.torch_->value();
    // A checkpoint of a trainer keeps it one deeper.
    for (const char* inner : {"state_dict", "model_state_dict"})
      if (const auto* found = dict->find(inner);
          found && found->kind == TorchValue::Kind::dict)
        dict = found;
    if (dict->kind != TorchValue::Kind::dict)
      fail(
          ErrorKind::bad_data,
          "[{}] {} holds no dict of tensors; save the SAE's state dict",
          caller,
          quoted(path));
    for (const auto& [name, value] : dict->members) {
      if (value.kind == TorchValue::Kind::tensor) out.names_.push_back(name);
      out.values_.emplace(name, &value);
    }
  } else {
    out.safetensors_ =
        std::make_shared<const Safetensors>(Safetensors::open(path));
    for (const auto& tensor : out.safetensors_->tensors()) {
      out.names_.push_back(tensor.name);
      out.tensors_.emplace(tensor.name, tensor);
    }
  }
  std::ranges::sort(out.names_);
  return out;
}

bool WeightFile::has(std::string_view name) const {
  return std::ranges::binary_search(names_, name);
}

bool WeightFile::has_all(std::initializer_list<std::string_view> names) const {
  return std::ranges::all_of(names, [&](auto name) { return has(name); });
}

void WeightFile::fail_missing(std::string_view name) const {
  fail(
      ErrorKind::bad_data,
      "[{}] {} has no tensor '{}', it {}; is it an SAE, and whole?",
      caller,
      quoted(path_),
      printable(name),
      contents());
}

std::string WeightFile::contents() const {
  constexpr size_t most = 8;
  if (names_.empty()) return "has none";
  std::string out = "has ";
  for (size_t i = 0; i < std::min(most, names_.size()); ++i)
    out += (i > 0 ? ", " : "") + printable(names_[i], 40);
  if (names_.size() > most)
    out += fmt::format(" and {} more", names_.size() - most);
  return out;
}

std::vector<int64_t> WeightFile::shape(std::string_view name) const {
  if (const auto found = tensors_.find(name); found != tensors_.end())
    return found->second.shape;
  if (const auto found = arrays_.find(name); found != arrays_.end()) {
    const auto& dims = found->second.shape();
    return {dims.begin(), dims.end()};
  }
  if (const auto* found = value(name);
      found && found->kind == TorchValue::Kind::tensor)
    return found->tensor.shape;
  fail_missing(name);
}

mx::array WeightFile::read(std::string_view name) const {
  if (const auto found = tensors_.find(name); found != tensors_.end()) {
    const auto [values, bad] = decode(
        safetensors_->file(),
        found->second,
        {.caller = caller, .dtype = mx::float32});
    check_finite(bad, name, path_);
    return mx::astype(values, mx::float32);
  }
  if (const auto found = arrays_.find(name); found != arrays_.end()) {
    if (!checked_.contains(name))
      check_finite(count_not_finite(found->second), name, path_);
    return mx::astype(found->second, mx::float32);
  }
  const auto* found = value(name);
  if (!found || found->kind != TorchValue::Kind::tensor) fail_missing(name);
  uint64_t bad = 0;
  const auto values =
      torch_->read(found->tensor, std::string(name), mx::float32, &bad);
  check_finite(bad, name, path_);
  return mx::astype(values, mx::float32);
}

double WeightFile::number(std::string_view name) const {
  if (const auto* found = value(name)) {
    if (found->kind == TorchValue::Kind::integer)
      return static_cast<double>(found->integer);
    if (found->kind == TorchValue::Kind::real) return found->real;
  }
  const auto dims = shape(name);
  for (const auto dim : dims)
    if (dim != 1)
      fail(
          ErrorKind::bad_data,
          "[{}] '{}' of {} is {}, not one number; is it an SAE, and whole?",
          caller,
          printable(name),
          quoted(path_),
          shown(dims));
  return mx::astype(mx::reshape(read(name), {}), mx::float32).item<float>();
}

const TorchValue* WeightFile::value(std::string_view name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? nullptr : found->second;
}

}  // namespace mlxterp
