// io/mapped_file.h: a file's bytes, mapped into memory for reading.

#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace mlxterp {

/** A path as a message shows it: quoted, escaped, cut when very long. */
std::string quoted(const std::filesystem::path& path);

/**
 * A regular file mapped read-only; it stays the file that was opened even when
 * another takes its name. Immutable, so usable from several threads. Errors
 * are of kind environment, except a file that changed: bad_data.
 */
class MappedFile {
 public:
  /** Folders, pipes and devices are refused. `caller` starts the message. */
  static std::shared_ptr<const MappedFile> open(
      const std::filesystem::path& path, std::string_view caller);

  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(data_), size_};
  }

  /** Throws where the file has another size or time than when it was opened.
   * To be called before bytes are read (a shorter file's pages are gone and
   * touching them kills the process) and after (they may be a mixture). */
  void check_unchanged(std::string_view caller) const;

 private:
  explicit MappedFile(std::filesystem::path path) : path_(std::move(path)) {}

  std::filesystem::path path_;
  int descriptor_ = -1;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  int64_t modified_ = 0;  // nanoseconds
};

/** What bytes that should have been a model file seem to be instead, as
 * " (it looks like an HTML page)", or nothing. */
std::string looks_like(std::string_view bytes);

}  // namespace mlxterp
