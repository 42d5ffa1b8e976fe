#include "io/torch_pickle.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <map>

#include "core/fail.h"
#include "core/machine.h"
#include "io/decode.h"
#include "io/input_file.h"
#include "io/pickle.h"
#include "io/zip_entries.h"
#include "mlx/ops.h"
#include "mlxterp/core/limits.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr std::string_view caller = "TorchFile::open";
// The first pickle of a file of before 1.6: a long integer.
constexpr std::string_view legacy_magic =
    "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

// Bytes of a number, 0 of an unknown type.
uint64_t width_of(std::string_view type) {
  if (type == "F64") return 8;
  const auto* encoding = find_encoding(type);
  return encoding && encoding->block == 1 ? encoding->bytes : 0;
}

struct Storage {
  uint64_t offset = 0, bytes = 0;
};

using Bad = Pickle::Bad;

// A tensor that lies wholly in its storage and has no more numbers than that.
TorchTensor placed(
    const PickledTensor& from, const Storage& storage, const Bad& bad) {
  const uint64_t width = width_of(from.type);
  if (width == 0)
    bad(fmt::format("a tensor is of type {}, which is not read", from.type));
  if (from.strides.size() != from.shape.size())
    bad("a tensor has as many strides as it has no dimensions");
  const uint64_t held = storage.bytes / width;
  uint64_t last = 0, numbers = 1;
  for (size_t i = 0; i < from.shape.size(); ++i) {
    const auto dim = static_cast<uint64_t>(from.shape[i]);
    const auto stride = static_cast<uint64_t>(from.strides[i]);
    uint64_t reach = 0;
    if (dim > limits::dim || stride > uint64_t{1} << 40 ||
        __builtin_mul_overflow(numbers, dim, &numbers) ||
        __builtin_mul_overflow(dim == 0 ? 0 : dim - 1, stride, &reach) ||
        __builtin_add_overflow(last, reach, &last))
      bad(fmt::format("a tensor is {}", shown(from.shape)));
  }
  const bool empty = numbers == 0;
  if (!empty &&
      (from.first >= held || last >= held - from.first || numbers > held))
    bad(fmt::format(
        "a tensor of {} {} begins at {} of a storage of {}, which does not "
        "hold it",
        shown(from.shape),
        from.type,
        from.first,
        held));
  return {
      .type = from.type,
      .shape = from.shape,
      .strides = from.strides,
      .offset = storage.offset + (empty ? 0 : from.first * width),
      .numbers = empty ? 0 : held - from.first};
}

TorchValue read_zip(const InputFile& file, const Bad& bad) {
  const auto entries = stored_entries(file, caller, bad);
  // "archive/data.pkl" beside "archive/data/0".
  constexpr std::string_view pickle_name = "/data.pkl";
  const auto found = std::ranges::find_if(entries, [&](const auto& entry) {
    return entry.first.ends_with(pickle_name);
  });
  if (found == entries.end()) {
    const bool script = std::ranges::any_of(entries, [](const auto& entry) {
      return entry.first.find("/code/") != entry.first.npos;
    });
    bad(script ? "it is a TorchScript program, not tensors"
               : "it is a zip without data.pkl");
  }
  const auto prefix =
      found->first.substr(0, found->first.size() - pickle_name.size());
  const auto order = entries.find(prefix + "/byteorder");
  if (order != entries.end() &&
      file.text(order->second.offset, order->second.bytes, caller) != "little")
    bad("its numbers are not little-endian");
  if (found->second.bytes > limits::pickle_bytes)
    bad(fmt::format("its pickle has {} bytes", found->second.bytes));
  const auto text =
      file.text(found->second.offset, found->second.bytes, caller);
  return Pickle(text, bad).value([&](const PickledTensor& tensor) {
    const auto entry =
        entries.find(fmt::format("{}/data/{}", prefix, tensor.storage));
    if (entry == entries.end())
      bad(fmt::format("it lacks the storage '{}'", printable(tensor.storage)));
    if (entry->second.bytes < tensor.storage_bytes)
      bad(fmt::format(
          "its storage '{}' has {} bytes, its pickle says {}",
          printable(tensor.storage),
          entry->second.bytes,
          tensor.storage_bytes));
    return placed(tensor, {entry->second.offset, tensor.storage_bytes}, bad);
  });
}

// Four pickles, the names of the storages, and each with its length.
TorchValue read_legacy(const InputFile& file, const Bad& bad) {
  const auto head = file.text(
      0, std::min<uint64_t>(file.size(), limits::pickle_bytes), caller);
  std::string_view rest(head);
  const auto next = [&] {
    Pickle pickle(rest, bad);
    rest.remove_prefix(pickle.size());
    return pickle;
  };
  const auto nowhere = [&](const PickledTensor&) -> TorchTensor {
    bad("a tensor stands where none may be");
    return {};
  };
  rest.remove_prefix(legacy_magic.size());
  if (next().value(nowhere).integer != 1001)
    bad("it is of an unknown version of torch.save");
  const auto system = next().value(nowhere);
  const auto* little = system.find("little_endian");
  if (!little || !little->boolean) bad("its numbers are not little-endian");
  const auto saved = next();
  const auto keys = next().value(nowhere);
  uint64_t at = head.size() - rest.size();

  // The lengths are in numbers; how wide these are stands with the tensors.
  std::map<std::string, uint64_t> said;
  (void)saved.value([&](const PickledTensor& tensor) {
    auto& bytes = said[tensor.storage];
    bytes = std::max(bytes, tensor.storage_bytes);
    return TorchTensor{};
  });
  std::map<std::string, Storage> storages;
  for (const auto& key : keys.items) {
    const auto found = said.find(key.text);
    if (found == said.end())
      bad(fmt::format("its storage '{}' is of no tensor", printable(key.text)));
    uint64_t count = 0;
    file.read(at, std::as_writable_bytes(std::span(&count, 1)), caller);
    at += sizeof count;
    const auto bytes = found->second;
    if (at > file.size() || bytes > file.size() - at || count > bytes)
      bad(fmt::format(
          "its storage '{}' of {} bytes goes beyond its end",
          printable(key.text),
          bytes));
    storages[key.text] = {at, bytes};
    at += bytes;
  }
  return saved.value([&](const PickledTensor& tensor) {
    const auto found = storages.find(tensor.storage);
    if (found == storages.end())
      bad(fmt::format("it lacks the storage '{}'", printable(tensor.storage)));
    return placed(tensor, found->second, bad);
  });
}

// Float64 numbers of a file as float32.
Decoded read_doubles(
    const InputFile& file, const TensorInfo& info, const DecodeOptions& how) {
  return decode_made(
      info, mx::float32, how, [&](size_t first, size_t n, float* out) {
        std::vector<double> values(n);
        file.read(
            info.offset + first * sizeof(double),
            std::as_writable_bytes(std::span(values)),
            caller);
        for (size_t i = 0; i < n; ++i)
          out[i] = static_cast<float>(values[i]);
      });
}

}  // namespace

const TorchValue* TorchValue::find(std::string_view name) const {
  for (const auto& [key, value] : members)
    if (key == name) return &value;
  return nullptr;
}

TorchFile TorchFile::open(const std::filesystem::path& path) {
  const auto file = InputFile::open(path, caller);
  const Bad bad = [&](const std::string& why) {
    fail(
        ErrorKind::bad_data,
        "[{}] {}: {}; download the file or save it again",
        caller,
        quoted(path),
        why);
  };
  const auto start = file->text(0, telling_bytes, caller);
  TorchFile out;
  if (start.starts_with("PK\x03\x04"))
    out.value_ = read_zip(*file, bad);
  else if (start.starts_with(legacy_magic))
    out.value_ = read_legacy(*file, bad);
  else
    bad("it is no file of torch.save" + looks_like(start));
  file->check_unchanged(caller);
  out.file_ = file;
  return out;
}

mx::array TorchFile::read(
    const TorchTensor& tensor,
    const std::string& name,
    std::optional<mx::Dtype> dtype,
    uint64_t* not_finite) const {
  // Rows one behind the other, or columns: a matrix that was transposed.
  const auto in_order = [&](const std::vector<size_t>& axes) {
    int64_t expected = 1;
    for (size_t i = axes.size(); i-- > 0;) {
      const auto dim = tensor.shape[axes[i]];
      if (dim != 1 && tensor.strides[axes[i]] != expected) return false;
      expected *= std::max<int64_t>(dim, 1);
    }
    return true;
  };
  std::vector<size_t> axes(tensor.shape.size());
  for (size_t i = 0; i < axes.size(); ++i)
    axes[i] = i;
  const bool straight = in_order(axes);
  const bool turned = !straight && axes.size() == 2 && in_order({1, 0});

  TensorInfo info;
  info.name = name;
  info.type = tensor.type;
  info.offset = tensor.offset;
  if (straight) {
    info.shape = tensor.shape;
  } else if (turned) {
    info.shape = {tensor.shape[1], tensor.shape[0]};
  } else {
    int64_t last = 0;
    for (size_t i = 0; i < axes.size(); ++i)
      last += std::max<int64_t>(tensor.shape[i] - 1, 0) * tensor.strides[i];
    info.shape = {last + 1};
  }
  uint64_t numbers = 1;
  for (const auto dim : info.shape)
    numbers *= static_cast<uint64_t>(dim);
  info.bytes = numbers * width_of(tensor.type);
  const DecodeOptions how{.caller = "TorchFile::read", .dtype = dtype};
  auto [values, bad_numbers] = tensor.type == "F64"
                                   ? read_doubles(*file_, info, how)
                                   : decode(*file_, info, how);
  if (not_finite) *not_finite = bad_numbers;
  if (straight) return values;
  if (turned) return mx::transpose(values);
  mx::Shape shape;
  mx::Strides strides;
  for (size_t i = 0; i < axes.size(); ++i) {
    shape.push_back(static_cast<int>(tensor.shape[i]));
    strides.push_back(tensor.strides[i]);
  }
  auto strided = mx::contiguous(mx::as_strided(values, shape, strides, 0));
  strided.eval();
  return strided;
}

}  // namespace mlxterp
