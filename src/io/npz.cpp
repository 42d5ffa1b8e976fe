#include "mlxterp/io/npz.h"

#include <zip.h>

#include <cctype>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <string_view>

#include "core/fail.h"
#include "core/machine.h"
#include "io/mapped_file.h"
#include "mlx/ops.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/atomic_file.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr std::string_view magic = "\x93NUMPY";
constexpr std::string_view suffix = ".npy";

// How numpy calls the numbers in a file, and what they are here.
struct Kind {
  std::string_view descr;
  mx::Dtype dtype;
  size_t bytes;
};

const Kind kinds[] = {
    {"<f4", mx::float32, 4},
    {"<f8", mx::float32, 8},
    {"<f2", mx::float16, 2},
    {"<V2", mx::bfloat16, 2},
    {"|V2", mx::bfloat16, 2},
    {"|b1", mx::bool_, 1},
    {"|i1", mx::int8, 1},
    {"|u1", mx::uint8, 1},
    {"<i2", mx::int16, 2},
    {"<u2", mx::uint16, 2},
    {"<i4", mx::int32, 4},
    {"<u4", mx::uint32, 4},
    {"<i8", mx::int64, 8},
    {"<u8", mx::uint64, 8}};

[[noreturn]] void broken(
    const std::filesystem::path& path, const std::string& why) {
  fail(
      ErrorKind::bad_data,
      "[load_npz] {}: {}; is it a whole .npz of numbers?",
      quoted(path),
      why);
}

// The header of a .npy, a Python dictionary of three entries.
struct Header {
  Kind kind;
  std::vector<int64_t> shape;
};

class HeaderReader {
 public:
  explicit HeaderReader(std::string_view text) : text_(text) {}

  // Nothing where it reads otherwise than numpy and MLX write it.
  std::optional<Header> read() {
    std::optional<std::string_view> descr;
    std::optional<bool> fortran;
    std::optional<std::vector<int64_t>> shape;
    if (!take('{')) return {};
    while (!take('}')) {
      const auto key = string();
      if (!key || !take(':')) return {};
      if (*key == "descr" && !descr)
        descr = string();
      else if (*key == "fortran_order" && !fortran)
        fortran = boolean();
      else if (*key == "shape" && !shape)
        shape = numbers();
      else
        return {};
      if (!take(',') && !peek('}')) return {};
    }
    // One axis or none lies in both orders.
    if (!descr || !fortran || !shape || (*fortran && shape->size() > 1))
      return {};
    for (const auto& kind : kinds)
      if (kind.descr == *descr) return Header{kind, *shape};
    return {};
  }

 private:
  void skip() {
    while (!text_.empty() &&
           std::isspace(static_cast<unsigned char>(text_.front())))
      text_.remove_prefix(1);
  }
  bool peek(char c) {
    skip();
    return !text_.empty() && text_.front() == c;
  }
  bool take(char c) {
    if (!peek(c)) return false;
    text_.remove_prefix(1);
    return true;
  }
  std::optional<std::string_view> string() {
    const char quote = peek('"') ? '"' : '\'';
    if (!take(quote)) return {};
    const auto end = text_.find(quote);
    if (end == std::string_view::npos) return {};
    const auto value = text_.substr(0, end);
    text_.remove_prefix(end + 1);
    return value;
  }
  std::optional<bool> boolean() {
    skip();
    for (const auto& [word, value] :
         {std::pair{std::string_view("True"), true},
          std::pair{std::string_view("False"), false}})
      if (text_.starts_with(word)) {
        text_.remove_prefix(word.size());
        return value;
      }
    return {};
  }
  std::optional<std::vector<int64_t>> numbers() {
    std::vector<int64_t> out;
    if (!take('(')) return {};
    while (!take(')')) {
      skip();
      int64_t value = 0;
      const auto parsed =
          std::from_chars(text_.data(), text_.data() + text_.size(), value);
      if (parsed.ec != std::errc() || value < 0 ||
          out.size() == limits::tensor_dims ||
          static_cast<uint64_t>(value) > limits::dim)
        return {};
      text_.remove_prefix(static_cast<size_t>(parsed.ptr - text_.data()));
      out.push_back(value);
      if (!take(',') && !peek(')')) return {};
    }
    return out;
  }

  std::string_view text_;
};

// One .npy, its bytes whole.
mx::array array_of(
    const std::filesystem::path& path,
    const std::string& name,
    std::string_view bytes) {
  const auto bad = [&](const char* why) {
    broken(path, fmt::format("'{}' {}", printable(name), why));
  };
  if (!bytes.starts_with(magic) || bytes.size() < 10) bad("is no .npy array");
  const bool wide = bytes[6] >= 2;  // the version
  const size_t begin = wide ? 12 : 10;
  if (bytes[6] < 1 || bytes[6] > 3 || bytes.size() < begin)
    bad("is of an unknown version of .npy");
  size_t length = 0;
  for (size_t i = begin; i-- > 8;)
    length = length << 8 | static_cast<unsigned char>(bytes[i]);
  if (length > limits::npy_header_bytes || length > bytes.size() - begin)
    bad("has a header longer than itself");
  const auto header = HeaderReader(bytes.substr(begin, length)).read();
  if (!header)
    bad("has a header that is none of little-endian numbers in C order");
  uint64_t count = 1;
  for (const auto dim : header->shape)
    if (__builtin_mul_overflow(count, static_cast<uint64_t>(dim), &count))
      bad("has a shape beyond 64 bits");
  const auto data = bytes.substr(begin + length);
  if (count != data.size() / header->kind.bytes ||
      data.size() % header->kind.bytes != 0)
    bad("holds more or fewer bytes than its shape says");

  const mx::Shape shape(header->shape.begin(), header->shape.end());
  const bool doubles = header->kind.descr == "<f8";
  const size_t out_bytes = doubles ? data.size() / 2 : data.size();
  std::unique_ptr<std::byte[]> own(
      new std::byte[std::max<size_t>(out_bytes, 1)]);
  if (doubles) {
    for (size_t i = 0; i < count; ++i) {
      double value = 0;
      std::memcpy(&value, data.data() + i * 8, 8);
      const auto single = static_cast<float>(value);
      std::memcpy(own.get() + i * 4, &single, 4);
    }
  } else {
    std::memcpy(own.get(), data.data(), data.size());
  }
  return mx::array(own.release(), shape, header->kind.dtype, [](void* pointer) {
    delete[] static_cast<std::byte*>(pointer);
  });
}

// libzip's handles.
struct CloseArchive {
  void operator()(zip_t* archive) const { zip_discard(archive); }
};
struct CloseEntry {
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};
struct FreeSource {
  void operator()(zip_source_t* source) const { zip_source_free(source); }
};
using Archive = std::unique_ptr<zip_t, CloseArchive>;
using Source = std::unique_ptr<zip_source_t, FreeSource>;

std::string said(zip_error_t& error) {
  std::string text = zip_error_strerror(&error);
  zip_error_fini(&error);
  return text;
}

std::string npy(const mx::array& array) {
  const Kind* found = nullptr;
  for (const auto& kind : kinds)
    if (!found && kind.dtype == array.dtype()) found = &kind;
  if (!found)
    fail(
        ErrorKind::usage,
        "[save_npz] complex numbers; save their parts as real arrays");
  auto whole = mx::contiguous(array);
  whole.eval();
  std::string shape;
  for (const int dim : whole.shape())
    shape += fmt::format("{}, ", dim);
  if (whole.ndim() > 1) shape.resize(shape.size() - 2);
  if (whole.ndim() == 1) shape.resize(shape.size() - 1);
  auto header = fmt::format(
      "{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}",
      found->descr,
      shape);
  // Data begins at a multiple of 64.
  header.resize((10 + header.size() + 64) / 64 * 64 - 10, ' ');
  header.back() = '\n';
  std::string bytes(magic);
  bytes += {1, 0};
  bytes += static_cast<char>(header.size() & 0xff);
  bytes += static_cast<char>(header.size() >> 8);
  bytes += header;
  if (whole.size() > 0)  // else there is no buffer
    bytes.append(
        reinterpret_cast<const char*>(whole.data<std::byte>()), whole.nbytes());
  return bytes;
}

[[noreturn]] void cannot_write(
    const std::filesystem::path& path, const std::string& why) {
  fail(
      ErrorKind::environment,
      "[save_npz] {} cannot be made: {}; is there memory for it twice?",
      quoted(path),
      why);
}

}  // namespace

std::vector<std::pair<std::string, mx::array>> load_npz(
    const std::filesystem::path& path) {
  const auto file = MappedFile::open(path, "load_npz");
  if (file->bytes().empty()) broken(path, "it is empty");
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_buffer_create(
      file->bytes().data(), file->bytes().size(), 0, &error);
  if (!source) broken(path, said(error));
  Archive archive(
      zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &error));
  if (!archive) {
    zip_source_free(source);
    broken(path, said(error) + looks_like(file->text()));
  }
  const auto entries = zip_get_num_entries(archive.get(), 0);
  if (entries < 0 || static_cast<uint64_t>(entries) > limits::tensors)
    broken(path, fmt::format("{} arrays", entries));

  std::vector<std::pair<std::string, mx::array>> out;
  std::set<std::string> seen;
  uint64_t total = 0;
  for (zip_uint64_t i = 0; i < static_cast<zip_uint64_t>(entries); ++i) {
    zip_stat_t stat;
    if (zip_stat_index(archive.get(), i, 0, &stat) != 0 ||
        !(stat.valid & ZIP_STAT_NAME) || !(stat.valid & ZIP_STAT_SIZE))
      broken(path, fmt::format("entry {} has no name or size", i));
    std::string name = stat.name;
    if (name.size() > limits::tensor_name_bytes || !name.ends_with(suffix))
      broken(path, fmt::format("'{}' is no .npy array", printable(name)));
    name.resize(name.size() - suffix.size());
    if (!seen.insert(name).second)
      broken(path, fmt::format("'{}' twice", printable(name)));
    if (__builtin_add_overflow(total, stat.size, &total) ||
        total > machine_memory())
      fail(
          ErrorKind::environment,
          "[load_npz] {} unpacks to more than this machine's memory, {:.1f} "
          "GB; is it the right file?",
          quoted(path),
          static_cast<double>(machine_memory()) / 1e9);
    const std::unique_ptr<zip_file_t, CloseEntry> entry(
        zip_fopen_index(archive.get(), i, 0));
    if (!entry)
      broken(
          path,
          fmt::format(
              "'{}' cannot be opened ({})",
              printable(name),
              zip_strerror(archive.get())));
    // It grows as bytes come: a size in a header alone allocates nothing.
    std::string bytes;
    constexpr size_t step = size_t{16} << 20;
    while (bytes.size() < stat.size) {
      const size_t at = bytes.size();
      bytes.resize(std::min<size_t>(stat.size, at + step));
      const auto got =
          zip_fread(entry.get(), bytes.data() + at, bytes.size() - at);
      if (got <= 0)
        broken(
            path,
            fmt::format(
                "'{}' breaks off ({})",
                printable(name),
                zip_file_strerror(entry.get())));
      bytes.resize(at + static_cast<size_t>(got));
    }
    char more = 0;  // reads to the end, where the checksum is compared
    if (zip_fread(entry.get(), &more, 1) != 0)
      broken(path, fmt::format("'{}' fails its checksum", printable(name)));
    auto array = array_of(path, name, bytes);
    out.emplace_back(std::move(name), std::move(array));
  }
  file->check_unchanged("load_npz");
  return out;
}

void save_npz(
    const std::filesystem::path& path,
    const std::vector<std::pair<std::string, mx::array>>& arrays,
    bool overwrite) {
  zip_error_t error;
  zip_error_init(&error);
  const Source buffer(zip_source_buffer_create(nullptr, 0, 0, &error));
  if (!buffer) cannot_write(path, said(error));
  zip_source_keep(buffer.get());  // once for us, once for the archive
  Archive archive(zip_open_from_source(buffer.get(), ZIP_TRUNCATE, &error));
  if (!archive) {
    zip_source_free(buffer.get());
    cannot_write(path, said(error));
  }
  std::vector<std::string> entries;
  entries.reserve(arrays.size());
  for (const auto& [name, array] : arrays) {
    const auto& bytes = entries.emplace_back(npy(array));
    zip_source_t* source =
        zip_source_buffer(archive.get(), bytes.data(), bytes.size(), 0);
    const auto index = source ? zip_file_add(
                                    archive.get(),
                                    (name + std::string(suffix)).c_str(),
                                    source,
                                    ZIP_FL_ENC_UTF_8)
                              : -1;
    if (index < 0) {
      zip_source_free(source);
      cannot_write(path, zip_strerror(archive.get()));
    }
    const auto at = static_cast<zip_uint64_t>(index);
    zip_set_file_compression(archive.get(), at, ZIP_CM_STORE, 0);
    // The first day that a zip can name, whatever today is.
    zip_file_set_dostime(archive.get(), at, 0, 1 << 5 | 1, 0);
  }
  if (zip_close(archive.get()) != 0)
    cannot_write(path, zip_strerror(archive.get()));
  (void)archive.release();  // closed
  entries.clear();

  zip_stat_t stat;
  zip_stat_init(&stat);
  if (zip_source_stat(buffer.get(), &stat) != 0 ||
      zip_source_open(buffer.get()) != 0)
    cannot_write(path, "the archive cannot be read back");
  AtomicFile out(path, overwrite);
  std::string part(size_t{16} << 20, '\0');
  for (zip_uint64_t left = stat.size; left > 0;) {
    const auto got = zip_source_read(
        buffer.get(), part.data(), std::min<zip_uint64_t>(left, part.size()));
    if (got <= 0) cannot_write(path, "the archive cannot be read back");
    out.write(std::string_view(part).substr(0, static_cast<size_t>(got)));
    left -= static_cast<zip_uint64_t>(got);
  }
  zip_source_close(buffer.get());
  out.commit();
}

}  // namespace mlxterp
