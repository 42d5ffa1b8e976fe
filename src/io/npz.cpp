#include "mlxterp/io/npz.h"

#include <zip.h>

#include <memory>
#include <set>
#include <span>
#include <string_view>

#include "core/fail.h"
#include "core/machine.h"
#include "io/input_file.h"
#include "io/npy.h"
#include "mlx/ops.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/atomic_file.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr std::string_view suffix = ".npy";

Error error_of(const std::filesystem::path& path, const std::string& why) {
  return {
      ErrorKind::bad_data,
      fmt::format(
          "[load_npz] {}: {}; is it a whole .npz of numbers?",
          quoted(path),
          why)};
}

[[noreturn]] void broken(
    const std::filesystem::path& path, const std::string& why) {
  throw error_of(path, why);
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

// One entry of an archive, a .npy; all complaints name it.
mx::array read_entry(
    const std::filesystem::path& path,
    const std::string& name,
    zip_file_t* file,
    uint64_t size) {
  const NpySource source{
      .caller = "load_npz",
      .size = size,
      .error =
          [&](std::string_view why) {
            return error_of(path, fmt::format("'{}' {}", printable(name), why));
          },
      .fill =
          [&](std::span<std::byte> to) {
            while (!to.empty()) {
              const auto got = zip_fread(file, to.data(), to.size());
              if (got <= 0)
                broken(
                    path,
                    fmt::format(
                        "'{}' breaks off ({})",
                        printable(name),
                        zip_file_strerror(file)));
              to = to.subspan(static_cast<size_t>(got));
            }
          },
      .shown = fmt::format("'{}' of {}", printable(name), quoted(path))};
  auto array = read_npy(source);
  std::byte more{};  // reads to the end, where the checksum is compared
  if (zip_fread(file, &more, 1) != 0) throw source.error("fails its checksum");
  return array;
}

std::string said(zip_error_t& error) {
  std::string text = zip_error_strerror(&error);
  zip_error_fini(&error);
  return text;
}

std::string npy(const mx::array& array) {
  const auto descr = npy_descr(array.dtype());
  if (descr.empty())
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
      descr,
      shape);
  // Data begins at a multiple of 64.
  header.resize((10 + header.size() + 64) / 64 * 64 - 10, ' ');
  header.back() = '\n';
  std::string bytes(npy_magic);
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
    auto array = read_entry(path, name, entry.get(), stat.size);
    out.emplace_back(std::move(name), std::move(array));
  }
  file->check_unchanged("load_npz");
  return out;
}

mx::array load_npy(const std::filesystem::path& path) {
  constexpr const char* caller = "load_npy";
  const auto file = InputFile::open(path, caller);
  uint64_t at = 0;
  const NpySource source{
      .caller = caller,
      .size = file->size(),
      .error =
          [&](std::string_view why) {
            return Error(
                ErrorKind::bad_data,
                fmt::format(
                    "[{}] {} {}; is it a whole .npy of numbers?{}",
                    caller,
                    quoted(path),
                    why,
                    looks_like(file->text(0, telling_bytes, caller))));
          },
      .fill =
          [&](std::span<std::byte> to) {
            file->read(at, to, caller);
            at += to.size();
          },
      .shown = quoted(path)};
  auto array = read_npy(source);
  file->check_unchanged(caller);
  return array;
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
