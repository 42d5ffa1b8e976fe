#include "io/torch_write.h"

#include <array>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/io/atomic_file.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr const char* caller = "TorchWriter";
constexpr uint64_t most_bytes = 0xFFFFFFFF;
constexpr std::string_view folder = "archive/";

// CRC-32 of a zip (APPNOTE 4.4.7).
uint32_t checksum(std::string_view bytes) {
  static constexpr auto table = [] {
    std::array<uint32_t, 256> out{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit)
        c = (c & 1) ? 0xEDB88320u ^ (c >> 1) : c >> 1;
      out[i] = c;
    }
    return out;
  }();
  uint32_t crc = 0xFFFFFFFF;
  for (const char byte : bytes)
    crc = table[(crc ^ static_cast<unsigned char>(byte)) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

std::string little_endian(uint64_t value, int bytes) {
  std::string out;
  for (int i = 0; i < bytes; ++i)
    out += static_cast<char>(value >> (8 * i) & 0xFF);
  return out;
}

// A zip whose entries are stored as they are.
class Zip {
 public:
  explicit Zip(AtomicFile& file) : file_(file) {}

  void add(const std::string& name, std::string_view bytes) {
    // Versions, flags, method, the first day that a zip can name.
    const auto crc = checksum(bytes);
    const auto common = little_endian(0, 2) + little_endian(0, 2) +
                        little_endian(0, 2) + little_endian(1 << 5 | 1, 2) +
                        little_endian(crc, 4) + little_endian(bytes.size(), 4) +
                        little_endian(bytes.size(), 4) +
                        little_endian(name.size(), 2);
    // Numbers begin at a multiple of 64.
    const auto head = at_ + 30 + name.size();
    const auto padding = (64 - (head + 4) % 64) % 64;
    const auto extra = std::string("FB") + little_endian(padding, 2) +
                       std::string(padding, 'Z');
    directory_ += "PK\x01\x02" + little_endian(20, 2) + little_endian(20, 2) +
                  common + little_endian(0, 2) + little_endian(0, 2) +
                  little_endian(0, 2) + little_endian(0, 2) +
                  little_endian(0, 4) + little_endian(at_, 4) + name;
    ++entries_;
    write(
        "PK\x03\x04" + little_endian(20, 2) + common +
        little_endian(extra.size(), 2) + name + extra);
    write(bytes);
  }

  void end() {
    const auto at = at_;
    write(directory_);
    write(
        "PK\x05\x06" + little_endian(0, 4) + little_endian(entries_, 2) +
        little_endian(entries_, 2) + little_endian(directory_.size(), 4) +
        little_endian(at, 4) + little_endian(0, 2));
  }

 private:
  void write(std::string_view bytes) {
    file_.write(bytes);
    at_ += bytes.size();
  }

  AtomicFile& file_;
  uint64_t at_ = 0, entries_ = 0;
  std::string directory_;
};

std::string_view storage_of(const mx::array& x) {
  if (x.dtype() == mx::float32) return "FloatStorage";
  if (x.dtype() == mx::float16) return "HalfStorage";
  if (x.dtype() == mx::bfloat16) return "BFloat16Storage";
  fail(
      ErrorKind::usage,
      "[{}] a tensor that is no float32, float16 or bfloat16",
      caller);
}

}  // namespace

TorchWriter::TorchWriter() : pickle_("\x80\x02") {}

void TorchWriter::little(uint64_t value, int bytes) {
  pickle_ += little_endian(value, bytes);
}

void TorchWriter::begin_dict() {
  pickle_ += "}(";
}

void TorchWriter::end_dict() {
  pickle_ += 'u';
}

void TorchWriter::begin_list() {
  pickle_ += "](";
}

void TorchWriter::end_list() {
  pickle_ += 'e';
}

void TorchWriter::text(std::string_view value) {
  pickle_ += 'X';
  little(value.size(), 4);
  pickle_ += value;
}

void TorchWriter::integer(int64_t value) {
  if (value >= INT32_MIN && value <= INT32_MAX) {
    pickle_ += 'J';
    little(static_cast<uint64_t>(value), 4);
    return;
  }
  pickle_ += "\x8a\x08";
  little(static_cast<uint64_t>(value), 8);
}

void TorchWriter::boolean(bool value) {
  pickle_ += value ? '\x88' : '\x89';
}

void TorchWriter::none() {
  pickle_ += 'N';
}

void TorchWriter::global(std::string_view module, std::string_view name) {
  pickle_ += 'c';
  pickle_ += module;
  pickle_ += '\n';
  pickle_ += name;
  pickle_ += '\n';
}

void TorchWriter::tensor(const mx::array& value) {
  const auto storage = storage_of(value);
  global("torch._utils", "_rebuild_tensor_v2");
  pickle_ += "((";  // arguments, the storage's persistent id
  text("storage");
  global("torch", storage);
  text(fmt::format("{}", tensors_.size()));
  text("cpu");
  integer(static_cast<int64_t>(value.size()));
  pickle_ += "tQ";
  integer(0);
  const auto tuple = [&](const std::vector<int64_t>& numbers) {
    pickle_ += '(';
    for (const auto number : numbers)
      integer(number);
    pickle_ += 't';
  };
  std::vector<int64_t> shape(value.shape().begin(), value.shape().end());
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;)
    strides[i - 1] = strides[i] * shape[i];
  tuple(shape);
  tuple(strides);
  boolean(false);
  global("collections", "OrderedDict");
  pickle_ += ")RtR";
  tensors_.push_back(value);
}

void TorchWriter::save(const std::filesystem::path& path, bool overwrite) {
  uint64_t bytes = pickle_.size();
  for (const auto& it : tensors_)
    bytes += it.nbytes() + 256;
  if (bytes >= most_bytes)
    fail(
        ErrorKind::usage,
        "[{}] '{}' would take {} bytes, more than such a file names; write "
        "safetensors",
        caller,
        printable(path.string()),
        bytes);
  AtomicFile file(path, overwrite);
  Zip zip(file);
  const std::string prefix(folder);
  zip.add(prefix + "data.pkl", pickle_ + ".");
  zip.add(prefix + "byteorder", "little");
  for (size_t i = 0; i < tensors_.size(); ++i) {
    auto whole = mx::contiguous(tensors_[i]);
    whole.eval();
    zip.add(
        fmt::format("{}data/{}", prefix, i),
        whole.size() == 0
            ? std::string_view()
            : std::string_view(
                  reinterpret_cast<const char*>(whole.data<std::byte>()),
                  whole.nbytes()));
  }
  zip.add(prefix + "version", "3\n");
  zip.end();
  file.commit();
}

}  // namespace mlxterp
