#include "analysis/store/text_files.h"

#include <algorithm>
#include <system_error>

#include "core/fail.h"
#include "core/utf8.h"
#include "io/digest.h"
#include "io/json.h"
#include "mlxterp/core/limits.h"

namespace fs = std::filesystem;

namespace mlxterp {

namespace {

constexpr const char* function = "activation_store";

bool is_jsonl(const fs::path& path) {
  return path.extension() == ".jsonl";
}

// Where a piece ends: behind its last line, else behind its last character.
size_t end_of_piece(const std::string& text) {
  if (const auto line = text.rfind('\n'); line != text.npos) return line + 1;
  constexpr size_t longest = 4;
  for (size_t back = 1; back < longest && back < text.size(); ++back) {
    const auto at = text.size() - back;
    const auto byte = static_cast<unsigned char>(text[at]);
    if ((byte & 0xC0u) == 0x80u) continue;  // goes on with the one before
    return utf8_length(std::string_view(text).substr(at)) ? text.size() : at;
  }
  return text.size();
}

std::string digest_of(
    const InputFile& file, const Progress& told, double from, double share) {
  constexpr uint64_t step = 16 << 20;
  Digest digest(Digest::Kind::sha256);
  for (uint64_t at = 0; at < file.size(); at += step) {
    if (told)
      told(
          "Reading the text",
          from + share * static_cast<double>(at) /
                     static_cast<double>(file.size()));
    digest.update(file.text(at, step, function));
  }
  file.check_unchanged(function);
  return digest.hex();
}

}  // namespace

TextFiles::TextFiles(const fs::path& path, const Warn& warn) {
  std::error_code error;
  const auto add = [&](const fs::path& file, std::string name) {
    const auto opened = InputFile::open(file, function);
    File one;
    one.path = file;
    one.name = std::move(name);
    one.bytes = opened->size();
    one.before = bytes_;
    one.lines = is_jsonl(file);
    files_.push_back(std::move(one));
    bytes_ += opened->size();
  };
  if (!fs::is_directory(path, error)) {
    add(path, path.filename().string());
  } else {
    std::vector<fs::path> found;
    size_t others = 0;
    fs::recursive_directory_iterator it(path, error), end;
    for (; !error && it != end; it.increment(error)) {
      if (!it->is_regular_file()) continue;
      const bool text =
          is_jsonl(it->path()) || it->path().extension() == ".txt";
      if (text)
        found.push_back(it->path());
      else
        ++others;
    }
    if (error)
      fail(
          ErrorKind::environment,
          "[{}] cannot list {} ({}); check its permissions",
          function,
          quoted(path),
          error.message());
    if (found.empty())
      fail(
          ErrorKind::usage,
          "[{}] {} has no file that ends in .txt or .jsonl; name a file",
          function,
          quoted(path));
    if (others && warn)
      warn(fmt::format(
          "{} of the files in {} end neither in .txt nor in .jsonl and are "
          "left out",
          others,
          quoted(path)));
    std::ranges::sort(
        found, {}, [](const fs::path& file) { return file.native(); });
    for (const auto& file : found)
      add(file, file.lexically_relative(path).generic_string());
  }
  if (bytes_ == 0)
    fail(ErrorKind::usage, "[{}] {} is empty", function, quoted(path));
}

std::string TextFiles::read(const File& file, int64_t offset, uint64_t most) {
  if (!open_ || open_->path() != file.path)
    open_ = InputFile::open(file.path, function);
  auto text = open_->text(static_cast<uint64_t>(offset), most, function);
  open_->check_unchanged(function);
  if (open_->size() != file.bytes)
    fail(
        ErrorKind::bad_data,
        "[{}] {} had {} bytes at first and has {} now; leave it as it is while "
        "it is read",
        function,
        quoted(file.path),
        file.bytes,
        open_->size());
  return text;
}

std::optional<std::string> TextFiles::next(TextPlace& at) {
  while (static_cast<size_t>(at.file) < files_.size()) {
    const auto& file = files_[static_cast<size_t>(at.file)];
    while (static_cast<uint64_t>(at.offset) < file.bytes)
      if (auto text = file.lines ? next_line(file, at) : next_piece(file, at)) {
        ++at.document;
        return text;
      }
    ++at.file;
    at.offset = 0;
  }
  return {};
}

std::optional<std::string> TextFiles::next_piece(
    const File& file, TextPlace& at) {
  auto text = read(file, at.offset, piece);
  if (static_cast<uint64_t>(at.offset) + text.size() < file.bytes)
    text.resize(end_of_piece(text));
  if (const auto zero = text.find('\0'); zero != text.npos)
    fail(
        ErrorKind::bad_data,
        "[{}] {} is not text: byte {} is zero{}; name a text or .jsonl file",
        function,
        quoted(file.path),
        static_cast<uint64_t>(at.offset) + zero,
        looks_like(text.substr(0, telling_bytes)));
  at.offset += static_cast<int64_t>(text.size());
  return text;
}

std::optional<std::string> TextFiles::next_line(
    const File& file, TextPlace& at) {
  constexpr uint64_t step = 1 << 16;
  const auto begin = static_cast<uint64_t>(at.offset);
  const auto where = [&] {
    return fmt::format("the line at byte {} of {}", begin, quoted(file.path));
  };
  std::string line;
  size_t end = line.npos;
  for (size_t seen = 0; end == line.npos; seen = line.size()) {
    if (begin + line.size() == file.bytes) break;
    line += read(
        file,
        static_cast<int64_t>(begin + line.size()),
        std::max<uint64_t>(step, line.size()));
    end = line.find('\n', seen);
    if (end == line.npos && line.size() > limits::text_file_bytes)
      fail(
          ErrorKind::bad_data,
          "[{}] {} is longer than {} MB, the longest document that is read; "
          "break it up",
          function,
          where(),
          limits::text_file_bytes >> 20);
  }
  at.offset += static_cast<int64_t>(end == line.npos ? line.size() : end + 1);
  if (end != line.npos) line.resize(end);
  if (line.find_first_not_of(" \t\r") == line.npos) return {};
  const auto json = parse_json(line, function, where());
  const auto text = json.is_object() ? json.find("text") : json.end();
  if (!json.is_object() || text == json.end() || !text->is_string())
    fail(
        ErrorKind::bad_data,
        "[{}] {} is {}; each line has to be an object with a field \"text\"",
        function,
        where(),
        json.is_object() ? text == json.end() ? "without \"text\""
                                              : "with a \"text\" that is none"
                         : "no object");
  auto out = text->get<std::string>();
  if (out.empty()) return {};
  return out;
}

double TextFiles::share(const TextPlace& at) const {
  if (static_cast<size_t>(at.file) >= files_.size()) return 1;
  const auto before = files_[static_cast<size_t>(at.file)].before;
  return static_cast<double>(before + static_cast<uint64_t>(at.offset)) /
         static_cast<double>(bytes_);
}

std::string TextFiles::digest(const Progress& progress) const {
  Digest all(Digest::Kind::sha256);
  for (const auto& file : files_) {
    const auto total = static_cast<double>(bytes_);
    auto one = digest_of(
        *InputFile::open(file.path, function),
        progress,
        static_cast<double>(file.before) / total,
        static_cast<double>(file.bytes) / total);
    if (files_.size() == 1) return one;
    all.update(fmt::format("{} {}\n", one, file.name));
  }
  return all.hex();
}

}  // namespace mlxterp
