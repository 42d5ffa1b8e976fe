#include "mlxterp/io/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <set>

#include "core/fail.h"
#include "io/decode.h"
#include "io/gguf_split.h"
#include "io/input_file.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

namespace mx = mlx::core;

static_assert(std::endian::native == std::endian::little);

constexpr std::string_view opening = "Gguf::open";
constexpr uint64_t default_alignment = 32;
constexpr size_t file_dims = 4;
constexpr uint64_t window_bytes = 1u << 20;
constexpr std::string_view supported =
    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, "
    "Q6_K, IQ4_NL, IQ4_XS, MXFP4";

enum class ValueType : uint32_t {
  uint8,
  int8,
  uint16,
  int16,
  uint32,
  int32,
  float32,
  boolean,
  string,
  array,
  uint64,
  int64,
  float64,
};

// Bytes of one value, for a string those of its length; 0: no such type.
size_t least_bytes(ValueType type) {
  switch (type) {
    case ValueType::uint8:
    case ValueType::int8:
    case ValueType::boolean:
      return 1;
    case ValueType::uint16:
    case ValueType::int16:
      return 2;
    case ValueType::uint32:
    case ValueType::int32:
    case ValueType::float32:
      return 4;
    case ValueType::string:
    case ValueType::array:
    case ValueType::uint64:
    case ValueType::int64:
    case ValueType::float64:
      return 8;
  }
  return 0;
}

// Every type the format has had, so that a refusal can name it.
std::string tensor_type_name(uint32_t type) {
  static constexpr std::string_view names[] = {
      "F32",        "F16",        "Q4_0",       "Q4_1",     "Q4_2",    "Q4_3",
      "Q5_0",       "Q5_1",       "Q8_0",       "Q8_1",     "Q2_K",    "Q3_K",
      "Q4_K",       "Q5_K",       "Q6_K",       "Q8_K",     "IQ2_XXS", "IQ2_XS",
      "IQ3_XXS",    "IQ1_S",      "IQ4_NL",     "IQ3_S",    "IQ2_S",   "IQ4_XS",
      "I8",         "I16",        "I32",        "I64",      "F64",     "IQ1_M",
      "BF16",       "Q4_0_4_4",   "Q4_0_4_8",   "Q4_0_8_8", "TQ1_0",   "TQ2_0",
      "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4",    "NVFP4",   "Q1_0"};
  if (type < std::size(names)) return std::string(names[type]);
  return "number " + std::to_string(type);
}

/** Walks over the file's head; no step leaves the file. */
class Reader {
 public:
  explicit Reader(const InputFile& file)
      : file_(file), name_(quoted(file.path())) {}

  void read() {
    read_magic();
    const auto tensor_count = number<uint64_t>("tensor count");
    const auto metadata_count = number<uint64_t>("metadata count");
    check_count("tensors", tensor_count, limits::gguf_tensors);
    check_count("metadata entries", metadata_count, limits::gguf_metadata);
    for (uint64_t i = 0; i < metadata_count; ++i)
      read_entry();
    std::set<std::string> names;
    for (uint64_t i = 0; i < tensor_count; ++i) {
      read_tensor();
      if (!names.insert(tensors.back().name).second)
        bad("{} has the tensor {} twice", name_, tensors.back().name);
    }
    place_tensors();
  }

  std::map<std::string, GgufValue> metadata;
  std::vector<TensorInfo> tensors;

 private:
  template <typename... T>
  [[noreturn]] void bad(fmt::format_string<T...> what, T&&... values) const {
    fail(
        ErrorKind::bad_data,
        "[{}] {}; download the file or convert it again",
        opening,
        fmt::format(what, std::forward<T>(values)...));
  }

  uint64_t left() const { return file_.size() - at_; }

  // Good until the next call.
  std::string_view take(uint64_t size, std::string_view what) {
    if (size > left())
      bad("{} ends inside its {} ({} bytes at {}, {} are left), is the "
          "download incomplete?",
          name_,
          printable(what),
          size,
          at_,
          left());
    if (size > window_at_ + window_.size() - at_) {
      window_ = file_.text(at_, std::max(size, window_bytes), opening);
      window_at_ = at_;
    }
    const auto bytes = std::string_view(window_).substr(at_ - window_at_, size);
    at_ += size;
    return bytes;
  }

  template <typename T>
  T number(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    return value;
  }

  std::string_view string(uint64_t limit, std::string_view what) {
    const auto size = number<uint64_t>(what);
    if (size > limit)
      bad("{} says that its {} has {} bytes, more than {}",
          name_,
          printable(what),
          size,
          limit);
    return take(size, what);
  }

  void check_count(
      std::string_view what, uint64_t count, uint64_t limit) const {
    if (count > limit)
      bad("{} says that it holds {} {}, at most {} are read",
          name_,
          count,
          what,
          limit);
  }

  void read_magic() {
    const auto hint = looks_like(file_.text(0, telling_bytes, opening));
    if (file_.size() < 4)
      bad("{} has {} bytes, too few for a GGUF file", name_, file_.size());
    const std::string magic(take(4, "magic"));
    for (const std::string_view old : {"lmgg", "fmgg", "tjgg", "algg", "nsgg"})
      if (magic == old)
        bad("{} is in the GGML format (\"{}\") that came before GGUF",
            name_,
            old);
    if (magic != "GGUF")
      bad("{} does not start with \"GGUF\" but with \"{}\"{}",
          name_,
          printable(magic),
          hint);
    const auto version = number<uint32_t>("version");
    if ((version & 0xFFFFu) == 0)
      bad("{} is a big-endian GGUF file (version {:#x})", name_, version);
    if (version != 2 && version != 3)
      bad("{} is GGUF version {}, only 2 and 3 are read", name_, version);
  }

  void read_entry() {
    const std::string key(string(limits::gguf_key_bytes, "metadata key"));
    if (key.empty()) bad("{} has an empty metadata key", name_);
    const auto type = value_type(key);
    if (key == "general.alignment") check_alignment_type(type);
    auto value =
        type == ValueType::array ? read_array(key) : read_value(type, key);
    if (!metadata.emplace(key, std::move(value)).second)
      bad("{} has the metadata key {} twice", name_, printable(key));
    if (key == "general.alignment") read_alignment();
  }

  ValueType value_type(const std::string& key) {
    const auto type = static_cast<ValueType>(number<uint32_t>(key));
    if (least_bytes(type) == 0)
      bad("{} of {} has the unknown value type {}",
          printable(key),
          name_,
          static_cast<uint32_t>(type));
    return type;
  }

  int64_t read_integer(ValueType type, const std::string& key) {
    switch (type) {
      case ValueType::uint8:
        return number<uint8_t>(key);
      case ValueType::int8:
        return number<int8_t>(key);
      case ValueType::uint16:
        return number<uint16_t>(key);
      case ValueType::int16:
        return number<int16_t>(key);
      case ValueType::uint32:
        return number<uint32_t>(key);
      case ValueType::int32:
        return number<int32_t>(key);
      case ValueType::int64:
        return number<int64_t>(key);
      default:
        break;
    }
    const auto value = number<uint64_t>(key);
    if (value > uint64_t{std::numeric_limits<int64_t>::max()})
      bad("{} of {} is {}, more than 2^63", printable(key), name_, value);
    return static_cast<int64_t>(value);
  }

  double read_float(ValueType type, const std::string& key) {
    return type == ValueType::float32 ? number<float>(key)
                                      : number<double>(key);
  }

  bool read_bool(const std::string& key) {
    const auto value = number<uint8_t>(key);
    if (value > 1)
      bad("{} of {} is a boolean of {}, not 0 or 1",
          printable(key),
          name_,
          value);
    return value == 1;
  }

  std::string read_string(const std::string& key) {
    return std::string(string(limits::gguf_string_bytes, key));
  }

  GgufValue read_value(ValueType type, const std::string& key) {
    switch (type) {
      case ValueType::string:
        return read_string(key);
      case ValueType::boolean:
        return read_bool(key);
      case ValueType::float32:
      case ValueType::float64:
        return read_float(type, key);
      default:
        return read_integer(type, key);
    }
  }

  template <typename T, typename Read>
  std::vector<T> read_elements(uint64_t count, const Read& read_one) {
    std::vector<T> values;
    values.reserve(count);
    for (uint64_t i = 0; i < count; ++i)
      values.push_back(read_one());
    return values;
  }

  GgufValue read_array(const std::string& key) {
    const auto type = value_type(key);
    if (type == ValueType::array)
      bad("{} of {} is an array of arrays, which is not read",
          printable(key),
          name_);
    const auto count = number<uint64_t>(key);
    if (count > left() / least_bytes(type))
      bad("{} of {} says that it has {} elements, {} bytes are left in the "
          "file",
          printable(key),
          name_,
          count,
          left());
    // A byte in the file is eight here, so bounding bytes would not do.
    if (count > limits::gguf_array_elements - elements_)
      bad("{} of {} has {} elements, {} in all arrays are read at most",
          printable(key),
          name_,
          count,
          limits::gguf_array_elements);
    elements_ += count;
    switch (type) {
      case ValueType::string:
        return read_elements<std::string>(
            count, [&] { return read_string(key); });
      case ValueType::boolean:
        return read_elements<bool>(count, [&] { return read_bool(key); });
      case ValueType::float32:
      case ValueType::float64:
        return read_elements<double>(
            count, [&] { return read_float(type, key); });
      default:
        return read_elements<int64_t>(
            count, [&] { return read_integer(type, key); });
    }
  }

  void check_alignment_type(ValueType type) const {
    if (type != ValueType::uint32)
      bad("general.alignment of {} has value type {}, not UINT32",
          name_,
          static_cast<uint32_t>(type));
  }

  void read_alignment() {
    const auto value = static_cast<uint64_t>(
        std::get<int64_t>(metadata.at("general.alignment")));
    if (!std::has_single_bit(value) || value < limits::gguf_alignment_min ||
        value > limits::gguf_alignment_max)
      bad("general.alignment of {} is {}, not a power of two from {} to {}",
          name_,
          value,
          limits::gguf_alignment_min,
          limits::gguf_alignment_max);
    alignment_ = value;
  }

  void read_tensor() {
    TensorInfo tensor;
    tensor.name = string(limits::tensor_name_bytes, "tensor name");
    const std::string shown_name = printable(tensor.name);
    if (tensor.name.empty() ||
        printable(tensor.name, limits::tensor_name_bytes * 4) != tensor.name)
      bad("{} has a tensor named \"{}\", which is not plain text",
          name_,
          shown_name);
    const auto dims = number<uint32_t>(shown_name);
    if (dims > file_dims)
      bad("tensor {} of {} has {} dimensions, more than {}",
          shown_name,
          name_,
          dims,
          file_dims);
    for (uint32_t i = 0; i < dims; ++i) {
      const auto dim = number<uint64_t>(shown_name);
      if (dim == 0 || dim > limits::dim)
        bad("tensor {} of {} has a dimension of {}, not from 1 to {}",
            shown_name,
            name_,
            dim,
            limits::dim);
      tensor.shape.push_back(static_cast<int64_t>(dim));
    }
    std::reverse(tensor.shape.begin(), tensor.shape.end());
    tensor.type = read_type(shown_name);
    const auto bytes = count_bytes(tensor.shape, *find_encoding(tensor.type));
    if (!bytes)
      bad("the shape {} of tensor {} of {} is too large or its rows are not "
          "whole {} blocks",
          shown(tensor.shape),
          shown_name,
          name_,
          tensor.type);
    tensor.bytes = *bytes;
    tensor.offset = number<uint64_t>(shown_name);
    tensors.push_back(std::move(tensor));
  }

  std::string read_type(const std::string& tensor) {
    auto type = tensor_type_name(number<uint32_t>(tensor));
    const Encoding* encoding = find_encoding(type);
    if (encoding && encoding->unpack) return type;
    fail(
        ErrorKind::bad_data,
        "[{}] tensor {} of {} has type {}; take a file quantised to one of {}",
        opening,
        tensor,
        name_,
        type,
        supported);
  }

  // Offsets count from the first aligned byte after the head.
  void place_tensors() {
    const uint64_t start = (at_ + alignment_ - 1) / alignment_ * alignment_;
    const uint64_t data = start < file_.size() ? file_.size() - start : 0;
    for (TensorInfo& tensor : tensors) {
      if (tensor.offset % alignment_ != 0)
        bad("tensor {} of {} starts at {}, not a multiple of the alignment {}",
            tensor.name,
            name_,
            tensor.offset,
            alignment_);
      if (tensor.offset > data || tensor.bytes > data - tensor.offset)
        bad("tensor {} of {} needs {} bytes at {} of the data, which has {}, "
            "is the download incomplete?",
            tensor.name,
            name_,
            tensor.bytes,
            tensor.offset,
            data);
      tensor.offset += start;
    }
    check_overlap();
  }

  void check_overlap() const {
    std::vector<const TensorInfo*> order;
    for (const TensorInfo& tensor : tensors)
      order.push_back(&tensor);
    std::sort(
        order.begin(),
        order.end(),
        [](const TensorInfo* a, const TensorInfo* b) {
          return a->offset < b->offset;
        });
    for (size_t i = 1; i < order.size(); ++i)
      if (order[i]->offset - order[i - 1]->offset < order[i - 1]->bytes)
        bad("tensors {} and {} of {} overlap",
            order[i - 1]->name,
            order[i]->name,
            name_);
  }

  const InputFile& file_;
  std::string name_;
  uint64_t at_ = 0;
  std::string window_;  // of the file, with what is read next
  uint64_t window_at_ = 0;
  uint64_t alignment_ = default_alignment;
  uint64_t elements_ = 0;  // of all arrays
};

}  // namespace

Gguf Gguf::open_part(const std::filesystem::path& path) {
  Gguf result;
  auto file = InputFile::open(path, opening);
  Reader reader(*file);
  reader.read();
  file->check_unchanged(opening);
  result.files_ = {std::move(file)};
  result.metadata_ = std::move(reader.metadata);
  result.tensors_ = std::move(reader.tensors);
  for (const auto& tensor : result.tensors_)
    result.part_of_.emplace(tensor.name, 0);
  return result;
}

Gguf Gguf::open(const std::filesystem::path& path) {
  auto whole = open_part(path);
  const auto paths = split_paths(path, whole.metadata());
  if (paths.empty()) return whole;
  whole = open_part(paths.front());
  check_part(paths.front(), whole.metadata(), 0, paths.size());
  for (size_t i = 1; i < paths.size(); ++i) {
    auto part = open_part(paths[i]);
    check_part(paths[i], part.metadata(), i, paths.size());
    whole.files_.push_back(part.files_.front());
    for (auto& tensor : part.tensors_) {
      if (!whole.part_of_.emplace(tensor.name, i).second)
        fail_split(paths[i], "holds {}, as another part does", tensor.name);
      whole.tensors_.push_back(std::move(tensor));
    }
  }
  check_all_there(paths.front(), whole.metadata(), whole.tensors_.size());
  return whole;
}

const std::filesystem::path& Gguf::path() const {
  return files_.front()->path();
}

const InputFile& Gguf::file_of(const TensorInfo& tensor) const {
  const auto found = part_of_.find(tensor.name);
  if (found == part_of_.end())
    fail(
        ErrorKind::unknown_name,
        "[Gguf::file_of] {} has no tensor {}; tensors() lists them",
        quoted(files_.front()->path()),
        printable(tensor.name));
  return *files_[found->second];
}

mx::array Gguf::read(const TensorInfo& tensor, mx::Dtype dtype) const {
  const Encoding* encoding = find_encoding(tensor.type);
  DecodeOptions options{.caller = "Gguf::read", .dtype = dtype};
  if (encoding && encoding->block == 1) options.dtype.reset();
  return decode(file_of(tensor), tensor, options).values;
}

}  // namespace mlxterp
