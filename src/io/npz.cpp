#include "mlxterp/io/npz.h"

#include <zip.h>

#include <cctype>
#include <charconv>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <span>
#include <string_view>

#include "core/fail.h"
#include "core/machine.h"
#include "io/input_file.h"
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

/** One entry of an archive, a .npy; all its complaints name it. */
class Entry {
 public:
  Entry(
      const std::filesystem::path& path,
      const std::string& name,
      zip_file_t* file,
      uint64_t size)
      : path_(path), name_(name), file_(file), left_(size) {}

  mx::array read() {
    const auto header = read_header();
    uint64_t count = 1;
    for (const auto dim : header.shape)
      if (__builtin_mul_overflow(count, static_cast<uint64_t>(dim), &count))
        bad("has a shape beyond 64 bits");
    const uint64_t bytes = header.kind.bytes;
    if (count != left_ / bytes || left_ % bytes != 0)
      bad("holds more or fewer bytes than its shape says");

    const mx::Shape shape(header.shape.begin(), header.shape.end());
    const bool doubles = header.kind.descr == "<f8";
    const uint64_t size = doubles ? left_ / 2 : left_;
    std::unique_ptr<std::byte[]> own(
        new (std::nothrow) std::byte[std::max<uint64_t>(size, 1)]);
    if (!own)
      fail(
          ErrorKind::environment,
          "[load_npz] no memory for the {} bytes of '{}' of {}; close other "
          "programs",
          size,
          printable(name_),
          quoted(path_));
    doubles ? narrow(count, own.get()) : fill({own.get(), size});
    std::byte more{};  // reads to the end, where the checksum is compared
    if (zip_fread(file_, &more, 1) != 0) bad("fails its checksum");
    return mx::array(own.release(), shape, header.kind.dtype, [](void* memory) {
      delete[] static_cast<std::byte*>(memory);
    });
  }

 private:
  [[noreturn]] void bad(std::string_view why) const {
    broken(path_, fmt::format("'{}' {}", printable(name_), why));
  }

  void fill(std::span<std::byte> to) {
    if (to.size() > left_) bad("is no .npy array");
    left_ -= to.size();
    while (!to.empty()) {
      const auto got = zip_fread(file_, to.data(), to.size());
      if (got <= 0)
        bad(fmt::format("breaks off ({})", zip_file_strerror(file_)));
      to = to.subspan(static_cast<size_t>(got));
    }
  }

  std::string text(size_t size) {
    std::string out(size, '\0');
    fill(std::as_writable_bytes(std::span(out)));
    return out;
  }

  Header read_header() {
    const auto start = text(8);
    if (!start.starts_with(magic)) bad("is no .npy array");
    const int version = start[6];
    if (version < 1 || version > 3) bad("is of an unknown version of .npy");
    const auto digits = text(version >= 2 ? 4 : 2);
    size_t length = 0;
    for (size_t i = digits.size(); i-- > 0;)
      length = length << 8 | static_cast<unsigned char>(digits[i]);
    if (length > limits::npy_header_bytes || length > left_)
      bad("has a header longer than itself");
    const auto written = text(length);
    const auto header = HeaderReader(written).read();
    if (!header)
      bad("has a header that is none of little-endian numbers in C order");
    return *header;
  }

  void narrow(uint64_t count, std::byte* to) {
    std::vector<double> wide;
    for (uint64_t done = 0; done < count; done += wide.size()) {
      wide.resize(std::min<uint64_t>(count - done, 1u << 16));
      fill(std::as_writable_bytes(std::span(wide)));
      for (const double value : wide) {
        const auto single = static_cast<float>(value);
        std::memcpy(to, &single, sizeof single);
        to += sizeof single;
      }
    }
  }

  const std::filesystem::path& path_;
  const std::string& name_;
  zip_file_t* file_;
  uint64_t left_;
};

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
      "[save_npz] {} cannot be made: {}; it takes memory for the file twice",
      quoted(path),
      why);
}

}  // namespace

std::vector<std::pair<std::string, mx::array>> load_npz(
    const std::filesystem::path& path) {
  const auto file = InputFile::open(path, "load_npz");
  if (file->size() == 0) broken(path, "it is empty");
  auto stream = file->stream("load_npz");
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* source = zip_source_filep_create(stream.get(), 0, -1, &error);
  if (!source) broken(path, said(error));
  static_cast<void>(stream.release());  // the source closes it
  Archive archive(
      zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &error));
  if (!archive) {
    zip_source_free(source);
    broken(
        path,
        said(error) + looks_like(file->text(0, telling_bytes, "load_npz")));
  }
  const auto entries = zip_get_num_entries(archive.get(), 0);
  if (entries < 0 || static_cast<uint64_t>(entries) > limits::tensors)
    broken(path, fmt::format("{} arrays", entries));

  std::vector<std::pair<std::string, mx::array>> out;
  std::set<std::string> seen;
  const uint64_t most = std::min<uint64_t>(
      limits::npz_ratio * file->size() + limits::npz_more_bytes,
      machine_memory());
  uint64_t total = 0;
  for (zip_uint64_t i = 0; i < static_cast<zip_uint64_t>(entries); ++i) {
    zip_stat_t stat;
    if (zip_stat_index(archive.get(), i, 0, &stat) != 0 ||
        !(stat.valid & ZIP_STAT_NAME) || !(stat.valid & ZIP_STAT_SIZE))
      broken(path, fmt::format("entry {} has no name or size", i));
    std::string name = stat.name;
    if (name.size() > limits::tensor_name_bytes || !name.ends_with(suffix))
      broken(path, fmt::format("'{}' is not a .npy array", printable(name)));
    name.resize(name.size() - suffix.size());
    if (!seen.insert(name).second)
      broken(path, fmt::format("'{}' twice", printable(name)));
    if (__builtin_add_overflow(total, stat.size, &total) || total > most)
      fail(
          ErrorKind::bad_data,
          "[load_npz] {} has {} bytes and unpacks to more than {}; is it the "
          "right file? Write it with numpy.savez, which does not compress",
          quoted(path),
          file->size(),
          most);
    const std::unique_ptr<zip_file_t, CloseEntry> entry(
        zip_fopen_index(archive.get(), i, 0));
    if (!entry)
      broken(
          path,
          fmt::format(
              "'{}' cannot be opened ({})",
              printable(name),
              zip_strerror(archive.get())));
    auto array = Entry(path, name, entry.get(), stat.size).read();
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
