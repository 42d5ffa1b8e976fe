// analysis/store/text_files.h: the documents of text files, one after another,
// from any place on.

#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/input_file.h"
#include "mlxterp/core/progress.h"

namespace mlxterp {

/** Where a document begins. */
struct TextPlace {
  int64_t file = 0;      ///< In the order of the files.
  int64_t offset = 0;    ///< Its first byte; of prompts in memory their number.
  int64_t document = 0;  ///< How many came before it.
};

/**
 * A text file, a JSONL file (a document a line, field `text`), or a folder of
 * .txt and .jsonl files, also below it, in the order of their names. A text
 * file is one document, or several where it is longer than `piece` bytes: it is
 * cut behind the last line that fits. At most one document and a file's
 * descriptor are held at a time.
 */
class TextFiles {
 public:
  static constexpr uint64_t piece = 1 << 20;

  /** Throws environment where nothing can be read, usage where a folder has no
   * such file. `warn` hears of files that are left out. */
  TextFiles(const std::filesystem::path& path, const Warn& warn);

  /** The document at a place or the next one behind it that is not empty, and
   * moves the place behind it; nothing at the end. Throws bad_data, with the
   * file and the place, for what is not text or no document. */
  std::optional<std::string> next(TextPlace& at);

  size_t files() const { return files_.size(); }
  uint64_t bytes() const { return bytes_; }
  /** Of all bytes, those before a place. */
  double share(const TextPlace& at) const;
  /** SHA-256 of the files: of one its own, of several that of their names and
   * digests. Reads all; `progress` is told, and may end it. */
  std::string digest(const Progress& progress) const;

 private:
  struct File {
    std::filesystem::path path;
    std::string name;  ///< Below the folder.
    uint64_t bytes = 0, before = 0;
    bool lines = false;  ///< JSONL.
  };

  std::optional<std::string> next_piece(const File& file, TextPlace& at);
  std::optional<std::string> next_line(const File& file, TextPlace& at);
  /** Bytes from a place on, at most a piece. */
  std::string read(const File& file, int64_t offset, uint64_t most);

  std::vector<File> files_;
  uint64_t bytes_ = 0;
  std::shared_ptr<const InputFile> open_;
};

}  // namespace mlxterp
