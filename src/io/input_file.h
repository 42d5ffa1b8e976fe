// io/input_file.h: a file that is read at any place.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace mlxterp {

/** A path as a message shows it: quoted, escaped, cut when very long. */
std::string quoted(const std::filesystem::path& path);

/**
 * A regular file open for reading; it stays the file that was opened even when
 * another takes its name. It is read and not mapped: a mapped file that is
 * truncated kills the process that touches it. Immutable, so usable from
 * several threads. Errors are of kind environment, except a file that changed:
 * bad_data.
 */
class InputFile {
 public:
  /** Folders, pipes and devices are refused. `caller` starts the message. */
  static std::shared_ptr<const InputFile> open(
      const std::filesystem::path& path, std::string_view caller);

  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile();

  const std::filesystem::path& path() const { return path_; }
  /** Bytes, as they were when it was opened. */
  uint64_t size() const { return size_; }

  /** Fills `to` with the bytes from `offset` on; throws where the file no
   * longer has them. */
  void read(
      uint64_t offset, std::span<std::byte> to, std::string_view caller) const;
  /** At most `bytes` from `offset` on, fewer only at the file's end. */
  std::string text(
      uint64_t offset, uint64_t bytes, std::string_view caller) const;

  /** All of it; bad_data above `limit` bytes. */
  std::string all(uint64_t limit, std::string_view caller) const;

  /** Throws where the file has another size or time than when it was opened.
   * To be called after bytes are read: they may be a mixture. */
  void check_unchanged(std::string_view caller) const;

  struct Close {
    void operator()(std::FILE* stream) const { std::fclose(stream); }
  };
  /** For a library that wants one; it has a position of its own only as long as
   * nobody else asks for a stream. */
  std::unique_ptr<std::FILE, Close> stream(std::string_view caller) const;

 private:
  explicit InputFile(std::filesystem::path path) : path_(std::move(path)) {}
  [[noreturn]] void fail_changed(std::string_view caller, uint64_t now) const;

  std::filesystem::path path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
  int64_t modified_ = 0;  // nanoseconds
};

/** All of a file, or nothing where there is none; throws as InputFile does. */
std::optional<std::string> text_of(
    const std::filesystem::path& path, uint64_t limit, std::string_view caller);

/** Bytes at the start of a file that tell what it is. */
inline constexpr size_t telling_bytes = 256;

/** What bytes that should have been a model file seem to be instead, as
 * " (it looks like an HTML page)", or nothing. */
std::string looks_like(std::string_view bytes);

}  // namespace mlxterp
