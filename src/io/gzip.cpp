#include "io/gzip.h"

#include <zip.h>

#include <memory>

#include "core/fail.h"

namespace mlxterp {

namespace {

// libzip is linked already and hands out what it deflated as it is, which is
// what gzip puts between its header and its trailer.
constexpr const char* entry = "x";

[[noreturn]] void refuse(zip_error_t* error) {
  const std::string why = zip_error_strerror(error);
  zip_error_fini(error);
  fail(ErrorKind::environment, "[gzip] cannot pack: {}", why);
}

using Source = std::unique_ptr<zip_source_t, decltype(&zip_source_free)>;

void append_little(std::string& out, uint64_t value) {
  for (int i = 0; i < 4; ++i)
    out += static_cast<char>(value >> (8 * i) & 0xFF);
}

// A zip with that one entry, in memory.
Source zipped(std::string_view bytes) {
  zip_error_t error;
  zip_error_init(&error);
  Source place(
      zip_source_buffer_create(nullptr, 0, 0, &error), &zip_source_free);
  if (!place) refuse(&error);
  zip_source_keep(place.get());  // the archive drops one, when it closes
  auto* archive = zip_open_from_source(place.get(), ZIP_TRUNCATE, &error);
  if (!archive) {
    zip_source_free(place.get());
    refuse(&error);
  }
  auto* content = zip_source_buffer(archive, bytes.data(), bytes.size(), 0);
  const auto index =
      content ? zip_file_add(archive, entry, content, ZIP_FL_ENC_UTF_8) : -1;
  if (content && index < 0) zip_source_free(content);
  if (index < 0 ||
      zip_set_file_compression(
          archive, static_cast<zip_uint64_t>(index), ZIP_CM_DEFLATE, 5) != 0 ||
      zip_close(archive) != 0) {
    const std::string why = zip_strerror(archive);
    zip_discard(archive);
    fail(ErrorKind::environment, "[gzip] cannot pack: {}", why);
  }
  return place;
}

}  // namespace

std::string gzip(std::string_view bytes) {
  std::string out("\x1f\x8b\x08\0\0\0\0\0\0\xff", 10);
  if (bytes.empty()) {  // which libzip stores: a final block of nothing
    out += std::string("\x03\0", 2) + std::string(8, '\0');
    return out;
  }
  const auto place = zipped(bytes);
  zip_error_t error;
  zip_error_init(&error);
  zip_source_keep(place.get());
  std::unique_ptr<zip_t, decltype(&zip_discard)> archive(
      zip_open_from_source(place.get(), ZIP_RDONLY, &error), &zip_discard);
  if (!archive) {
    zip_source_free(place.get());
    refuse(&error);
  }
  zip_stat_t told;
  std::string packed;
  const std::unique_ptr<zip_file_t, decltype(&zip_fclose)> file(
      zip_fopen_index(archive.get(), 0, ZIP_FL_COMPRESSED), &zip_fclose);
  bool good = file && zip_stat_index(archive.get(), 0, 0, &told) == 0 &&
              told.comp_method == ZIP_CM_DEFLATE;
  if (good) {
    packed.resize(told.comp_size);
    const auto read = zip_fread(file.get(), packed.data(), packed.size());
    good = read == static_cast<zip_int64_t>(packed.size());
  }
  if (!good)
    fail(
        ErrorKind::environment,
        "[gzip] cannot read what was packed: {}",
        zip_strerror(archive.get()));
  out += packed;
  append_little(out, told.crc);
  append_little(out, bytes.size());
  return out;
}

}  // namespace mlxterp
