#include "mlxterp/io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>

#include "core/fail.h"
#include "io/decode.h"
#include "io/input_file.h"
#include "io/json.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/atomic_file.h"

namespace mlxterp {

namespace {

namespace mx = mlx::core;
using nlohmann::json;

constexpr std::string_view opening = "Safetensors::open";
constexpr std::string_view saving = "save_safetensors";
constexpr std::string_view supported =
    "F32, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64, BOOL";
constexpr size_t length_bytes = 8;

/** Reads the header of one file; all its complaints name that file. */
class HeaderReader {
 public:
  explicit HeaderReader(const InputFile& file)
      : file_(file), name_(quoted(file.path())) {}

  void read() {
    const auto header = header_text();
    data_start_ = length_bytes + header.size();
    const json parsed =
        parse_json(header, opening, fmt::format("the header of {}", name_));
    if (parsed.size() > limits::tensors)
      bad("{} names {} tensors, at most {} are read",
          name_,
          parsed.size(),
          limits::tensors);
    for (const auto& [key, value] : parsed.items())
      key == "__metadata__" ? read_metadata(value) : read_tensor(key, value);
    check_layout();
  }

  std::vector<TensorInfo> tensors;
  std::map<std::string, std::string> metadata;

 private:
  template <typename... T>
  [[noreturn]] void bad(fmt::format_string<T...> what, T&&... values) const {
    fail(
        ErrorKind::bad_data,
        "[{}] {}; download the file or write it again",
        opening,
        fmt::format(what, std::forward<T>(values)...));
  }

  std::string header_text() const {
    const auto start = file_.text(0, telling_bytes, opening);
    const std::string hint = looks_like(start);
    if (start.size() < length_bytes + 2)
      bad("{} has {} bytes, too few for a safetensors file{}",
          name_,
          file_.size(),
          hint);
    uint64_t length = 0;
    std::memcpy(&length, start.data(), sizeof length);
    if (length > limits::safetensors_header_bytes)
      bad("{} says that its header has {} bytes, more than {}{}",
          name_,
          length,
          limits::safetensors_header_bytes,
          hint);
    if (length > file_.size() - length_bytes)
      bad("{} ends inside its header of {} bytes after {}, is the download "
          "incomplete?{}",
          name_,
          length,
          file_.size() - length_bytes,
          hint);
    auto header = file_.text(length_bytes, length, opening);
    if (header.empty() || header.front() != '{')
      bad("the header of {} ({} bytes) does not start with '{{'{}",
          name_,
          length,
          hint);
    return header;
  }

  void read_metadata(const json& values) {
    if (values.is_null()) return;  // as mx.save_safetensors writes none
    if (!values.is_object())
      bad("__metadata__ of {} is not an object of strings", name_);
    for (const auto& [key, value] : values.items()) {
      if (!value.is_string())
        bad("__metadata__ of {} holds a {} under \"{}\", not a string",
            name_,
            value.type_name(),
            printable(key));
      metadata[key] = value.get<std::string>();
    }
  }

  void read_tensor(const std::string& key, const json& entry) {
    const std::string shown_name = printable(key);
    if (key.size() > limits::tensor_name_bytes)
      bad("{} has a tensor name of {} bytes ({}), more than {}",
          name_,
          key.size(),
          shown_name,
          limits::tensor_name_bytes);
    if (key.find('\0') != key.npos)
      bad("{} has the tensor name \"{}\" with a zero byte", name_, shown_name);
    if (!entry.is_object())
      bad("tensor \"{}\" of {} is a {}, not an object",
          shown_name,
          name_,
          entry.type_name());
    TensorInfo tensor;
    tensor.name = key;
    tensor.type = read_type(shown_name, field(shown_name, entry, "dtype"));
    tensor.shape = read_shape(shown_name, field(shown_name, entry, "shape"));
    read_offsets(tensor, field(shown_name, entry, "data_offsets"));
    tensors.push_back(std::move(tensor));
  }

  const json& field(
      const std::string& tensor, const json& entry, const char* key) const {
    const auto found = entry.find(key);
    if (found == entry.end())
      bad("tensor \"{}\" of {} has no {}", tensor, name_, key);
    return *found;
  }

  std::string read_type(const std::string& tensor, const json& value) const {
    if (!value.is_string())
      bad("the dtype of tensor \"{}\" of {} is a {}, not a string",
          tensor,
          name_,
          value.type_name());
    const auto& type = value.get_ref<const std::string&>();
    const Encoding* encoding = find_encoding(type);
    if (encoding && encoding->block == 1) return type;
    if (type == "F64")
      fail(
          ErrorKind::bad_data,
          "[{}] tensor \"{}\" of {} has dtype F64, which would lose half its "
          "digits; convert it to F32 where that is meant",
          opening,
          tensor,
          name_);
    fail(
        ErrorKind::bad_data,
        "[{}] tensor \"{}\" of {} has dtype {}; convert it to one of {}",
        opening,
        tensor,
        name_,
        printable(type),
        supported);
  }

  std::vector<int64_t> read_shape(
      const std::string& tensor, const json& value) const {
    if (!value.is_array() || value.size() > limits::tensor_dims)
      bad("the shape of tensor \"{}\" of {} is {}, not a list of at most {} "
          "numbers",
          tensor,
          name_,
          excerpt(value),
          limits::tensor_dims);
    std::vector<int64_t> shape;
    for (const json& dim : value) {
      if (!dim.is_number_unsigned() || dim.get<uint64_t>() > limits::dim)
        bad("the shape of tensor \"{}\" of {} holds {}, not a whole number "
            "from 0 to {}",
            tensor,
            name_,
            excerpt(dim),
            limits::dim);
      shape.push_back(dim.get<int64_t>());
    }
    return shape;
  }

  void read_offsets(TensorInfo& tensor, const json& value) const {
    const std::string shown_name = printable(tensor.name);
    const bool pair = value.is_array() && value.size() == 2 &&
                      value[0].is_number_unsigned() &&
                      value[1].is_number_unsigned();
    if (!pair)
      bad("data_offsets of tensor \"{}\" of {} are {}, not two whole numbers",
          shown_name,
          name_,
          excerpt(value));
    const auto begin = value[0].get<uint64_t>();
    const auto end = value[1].get<uint64_t>();
    const uint64_t data = file_.size() - data_start_;
    if (begin > end)
      bad("data_offsets of tensor \"{}\" of {} are [{}, {}], end before start",
          shown_name,
          name_,
          begin,
          end);
    if (end > data)
      bad("tensor \"{}\" of {} ends at byte {} of the data, which has {}, is "
          "the download incomplete?",
          shown_name,
          name_,
          end,
          data);
    const auto bytes = count_bytes(tensor.shape, *find_encoding(tensor.type));
    if (bytes != end - begin)
      bad("tensor \"{}\" of {} has {} bytes, {} {} needs {}",
          shown_name,
          name_,
          end - begin,
          tensor.type,
          shown(tensor.shape),
          bytes ? std::to_string(*bytes) : "more than 2^64");
    tensor.offset = data_start_ + begin;
    tensor.bytes = end - begin;
  }

  // The tensors have to cover the data: no byte twice, none unnamed.
  void check_layout() {
    std::sort(
        tensors.begin(),
        tensors.end(),
        [](const TensorInfo& a, const TensorInfo& b) {
          return std::tie(a.offset, a.bytes) < std::tie(b.offset, b.bytes);
        });
    uint64_t at = data_start_;
    for (const TensorInfo& tensor : tensors) {
      if (tensor.offset < at)
        bad("tensor \"{}\" of {} overlaps the one before it by {} bytes",
            printable(tensor.name),
            name_,
            at - tensor.offset);
      if (tensor.offset > at)
        bad("there is a hole of {} bytes before tensor \"{}\" of {}",
            tensor.offset - at,
            printable(tensor.name),
            name_);
      at = tensor.offset + tensor.bytes;
    }
    if (at != file_.size())
      bad("{} has {} bytes after its last tensor", name_, file_.size() - at);
  }

  static std::string excerpt(const json& value) {
    return printable(
        value.dump(-1, ' ', true, json::error_handler_t::replace), 60);
  }

  const InputFile& file_;
  std::string name_;
  uint64_t data_start_ = 0;
};

std::string_view type_name(const std::string& tensor, const mx::array& array) {
  switch (array.dtype().val()) {
    case mx::Dtype::Val::float32:
      return "F32";
    case mx::Dtype::Val::float16:
      return "F16";
    case mx::Dtype::Val::bfloat16:
      return "BF16";
    case mx::Dtype::Val::int8:
      return "I8";
    case mx::Dtype::Val::int16:
      return "I16";
    case mx::Dtype::Val::int32:
      return "I32";
    case mx::Dtype::Val::int64:
      return "I64";
    case mx::Dtype::Val::uint8:
      return "U8";
    case mx::Dtype::Val::uint16:
      return "U16";
    case mx::Dtype::Val::uint32:
      return "U32";
    case mx::Dtype::Val::uint64:
      return "U64";
    case mx::Dtype::Val::bool_:
      return "BOOL";
    default:
      fail(
          ErrorKind::usage,
          "[{}] \"{}\" is float64 or complex64; cast it to one of {}",
          saving,
          printable(tensor),
          supported);
  }
}

using Named = std::pair<std::string, mx::array>;

void check_names(const std::vector<Named>& tensors) {
  std::set<std::string_view> seen;
  for (const auto& [name, array] : tensors) {
    const bool fits = name.size() <= limits::tensor_name_bytes &&
                      name != "__metadata__" && name.find('\0') == name.npos;
    if (!fits)
      fail(
          ErrorKind::usage,
          "[{}] \"{}\" cannot name a tensor; use at most {} bytes of text, no "
          "zero byte, not __metadata__",
          saving,
          printable(name),
          limits::tensor_name_bytes);
    if (!seen.insert(name).second)
      fail(
          ErrorKind::usage,
          "[{}] \"{}\" is there twice; give each tensor a name of its own",
          saving,
          printable(name));
  }
}

// Widest first, as other readers want every tensor aligned to its own width.
std::vector<const Named*> file_order(const std::vector<Named>& tensors) {
  std::vector<const Named*> order;
  for (const auto& tensor : tensors)
    order.push_back(&tensor);
  std::stable_sort(
      order.begin(), order.end(), [](const Named* a, const Named* b) {
        return a->second.itemsize() > b->second.itemsize();
      });
  return order;
}

std::string make_header(
    const std::vector<const Named*>& order,
    const std::map<std::string, std::string>& metadata) {
  auto header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t at = 0;
  for (const Named* tensor : order) {
    const auto& [name, array] = *tensor;
    const uint64_t end = at + array.nbytes();
    header[name] = {
        {"dtype", type_name(name, array)},
        {"shape", std::vector<int>(array.shape().begin(), array.shape().end())},
        {"data_offsets", {at, end}}};
    at = end;
  }
  try {
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    return text;
  } catch (const nlohmann::json::exception&) {
    fail(
        ErrorKind::usage,
        "[{}] a name or a metadata value is not UTF-8; rename it",
        saving);
  }
}

std::string_view as_text(const void* data, size_t size) {
  return {static_cast<const char*>(data), size};
}

}  // namespace

Safetensors Safetensors::open(const std::filesystem::path& path) {
  Safetensors result;
  auto file = InputFile::open(path, opening);
  HeaderReader header(*file);
  header.read();
  file->check_unchanged(opening);
  result.file_ = std::move(file);
  result.tensors_ = std::move(header.tensors);
  result.metadata_ = std::move(header.metadata);
  return result;
}

mx::array Safetensors::read(const TensorInfo& tensor) const {
  return decode(*file_, tensor, {.caller = "Safetensors::read"}).values;
}

void save_safetensors(
    const std::filesystem::path& path,
    const std::vector<Named>& tensors,
    const std::map<std::string, std::string>& metadata,
    bool overwrite) {
  check_names(tensors);
  const auto order = file_order(tensors);
  const std::string header = make_header(order, metadata);
  if (header.size() > limits::safetensors_header_bytes)
    fail(
        ErrorKind::usage,
        "[{}] the names and metadata take {} bytes, more than {}; shorten them",
        saving,
        header.size(),
        limits::safetensors_header_bytes);

  AtomicFile file(path, overwrite);
  std::vector<mx::array> arrays;
  for (const Named* tensor : order)
    arrays.push_back(tensor->second);
  mx::eval(arrays);
  const uint64_t length = header.size();
  file.write(as_text(&length, sizeof length));
  file.write(header);
  for (const mx::array& array : arrays) {
    // Values in place are written by threads that have no stream of MLX's.
    auto rows = array;
    if (!rows.flags().row_contiguous) rows = mx::contiguous(array);
    rows.eval();
    file.write(as_text(rows.data<char>(), rows.nbytes()));
  }
  file.commit();
}

}  // namespace mlxterp
