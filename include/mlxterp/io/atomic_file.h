// mlxterp/io/atomic_file.h: files that appear whole or not at all.

#pragma once

#include <filesystem>
#include <string_view>

namespace mlxterp {

/**
 * Writes a file beside `path` under a temporary name; `commit` flushes it to
 * the disk and gives it its name. Destroyed before that, it leaves nothing.
 * Throws Error: usage where `path` exists and may not be overwritten,
 * environment where the machine refuses. One thread at a time.
 */
class AtomicFile {
 public:
  AtomicFile(std::filesystem::path path, bool overwrite);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(std::string_view bytes);
  void commit();

 private:
  void close_file();
  void rename_over();
  void rename_new();

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  bool overwrite_;
  int descriptor_ = -1;
};

/** Writes `bytes` to `path`, whole or not at all. */
void write_file_atomically(
    const std::filesystem::path& path,
    std::string_view bytes,
    bool overwrite = false);

}  // namespace mlxterp
