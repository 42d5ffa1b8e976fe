#include "io/zip_entries.h"

#include <algorithm>

#include "core/fail.h"
#include "io/input_file.h"
#include "mlxterp/core/limits.h"

namespace mlxterp {

namespace {

// Sizes of records, without names and the like (APPNOTE 6.3.9, 4.3).
constexpr uint64_t end_bytes = 22;
constexpr uint64_t end64_bytes = 56;
constexpr uint64_t locator_bytes = 20;
constexpr uint64_t central_bytes = 46;
constexpr uint64_t local_bytes = 30;
constexpr uint64_t longest_comment = 65'535;
constexpr uint64_t most_directory_bytes = 64ull << 20;
constexpr uint64_t full32 = 0xFFFFFFFF;

uint64_t little(std::string_view bytes, size_t at, int n) {
  uint64_t value = 0;
  for (int i = n; i-- > 0;)
    value = value << 8 |
            static_cast<unsigned char>(bytes[at + static_cast<size_t>(i)]);
  return value;
}

struct Directory {
  uint64_t offset = 0, bytes = 0, entries = 0;
};

class Reader {
 public:
  Reader(
      const InputFile& file,
      std::string_view caller,
      const std::function<void(const std::string&)>& bad)
      : file_(file), caller_(caller), bad_(bad) {}

  std::map<std::string, ZipEntry> entries() {
    const auto directory = find_directory();
    if (directory.bytes > most_directory_bytes ||
        directory.entries > limits::torch_entries ||
        directory.offset > file_.size() ||
        directory.bytes > file_.size() - directory.offset)
      bad_("its zip directory is not where it should be");
    const auto text = file_.text(directory.offset, directory.bytes, caller_);
    std::map<std::string, ZipEntry> out;
    size_t at = 0;
    for (uint64_t i = 0; i < directory.entries; ++i) {
      if (text.size() - at < central_bytes || little(text, at, 4) != 0x02014b50)
        bad_("its zip directory breaks off");
      const auto name_bytes = little(text, at + 28, 2);
      const auto extra_bytes = little(text, at + 30, 2);
      const auto comment_bytes = little(text, at + 32, 2);
      const auto whole =
          central_bytes + name_bytes + extra_bytes + comment_bytes;
      if (text.size() - at < whole) bad_("its zip directory breaks off");
      const auto name = text.substr(at + central_bytes, name_bytes);
      add(out, name, std::string_view(text).substr(at, whole), extra_bytes);
      at += whole;
    }
    return out;
  }

 private:
  Directory find_directory() {
    const auto tail_bytes = std::min(file_.size(), end_bytes + longest_comment);
    const auto tail_at = file_.size() - tail_bytes;
    const auto tail = file_.text(tail_at, tail_bytes, caller_);
    const auto end = tail.rfind("PK\x05\x06");
    if (end == tail.npos || tail.size() - end < end_bytes)
      bad_("it ends before its zip directory, is the download incomplete?");
    Directory out{
        .offset = little(tail, end + 16, 4),
        .bytes = little(tail, end + 12, 4),
        .entries = little(tail, end + 10, 2)};
    if (end < locator_bytes) return out;
    const auto locator = std::string_view(tail).substr(end - locator_bytes);
    if (little(locator, 0, 4) != 0x07064b50) return out;
    const auto end64_at = little(locator, 8, 8);
    if (end64_at > file_.size() || file_.size() - end64_at < end64_bytes)
      bad_("its zip directory is not where it should be");
    const auto end64 = file_.text(end64_at, end64_bytes, caller_);
    if (little(end64, 0, 4) != 0x06064b50)
      bad_("its zip directory is not where it should be");
    return {
        .offset = little(end64, 48, 8),
        .bytes = little(end64, 40, 8),
        .entries = little(end64, 32, 8)};
  }

  void add(
      std::map<std::string, ZipEntry>& out,
      const std::string& name,
      std::string_view central,
      uint64_t extra_bytes) {
    const auto flags = little(central, 8, 2);
    const auto method = little(central, 10, 2);
    uint64_t packed = little(central, 20, 4);
    uint64_t bytes = little(central, 24, 4);
    uint64_t local = little(central, 42, 4);
    auto extra =
        central.substr(central_bytes + little(central, 28, 2), extra_bytes);
    while (extra.size() >= 4) {
      const auto size = little(extra, 2, 2);
      if (extra.size() - 4 < size) break;
      if (little(extra, 0, 2) == 1) {  // zip64: what did not fit, in this order
        auto wide = extra.substr(4, size);
        for (uint64_t* value : {&bytes, &packed, &local}) {
          if (*value != full32) continue;
          if (wide.size() < 8) bad_("its zip directory breaks off");
          *value = little(wide, 0, 8);
          wide.remove_prefix(8);
        }
      }
      extra.remove_prefix(4 + size);
    }
    const auto shown = printable(name);
    if (name.size() > limits::tensor_name_bytes)
      bad_("an entry has a name of too many bytes");
    if (method != 0 || packed != bytes || (flags & 1) != 0)
      bad_(fmt::format(
          "its entry '{}' is {}, and only what is stored as it is is read; "
          "save it again",
          shown,
          (flags & 1) != 0 ? "encrypted" : "compressed"));
    if (local > file_.size() || file_.size() - local < local_bytes)
      bad_(fmt::format("its entry '{}' lies beyond its end", shown));
    const auto header = file_.text(local, local_bytes, caller_);
    if (little(header, 0, 4) != 0x04034b50)
      bad_(fmt::format("its entry '{}' is not where it should be", shown));
    const auto at =
        local + local_bytes + little(header, 26, 2) + little(header, 28, 2);
    if (at > file_.size() || bytes > file_.size() - at)
      bad_(fmt::format(
          "its entry '{}' of {} bytes goes beyond its end", shown, bytes));
    if (!out.emplace(name, ZipEntry{at, bytes}).second)
      bad_(fmt::format("its entry '{}' is there twice", shown));
  }

  const InputFile& file_;
  std::string_view caller_;
  const std::function<void(const std::string&)>& bad_;
};

}  // namespace

std::map<std::string, ZipEntry> stored_entries(
    const InputFile& file,
    std::string_view caller,
    const std::function<void(const std::string& why)>& bad) {
  return Reader(file, caller, bad).entries();
}

}  // namespace mlxterp
