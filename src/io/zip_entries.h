// io/zip_entries.h: where the entries of a zip lie that are stored as they are.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

namespace mlxterp {

class InputFile;

struct ZipEntry {
  uint64_t offset = 0;  ///< Of its first byte in the file.
  uint64_t bytes = 0;
};

/** Every entry by its name. Throws through `bad` what is wrong: no directory,
 * an entry beyond the end, one that is compressed or encrypted (torch and numpy
 * write none, and what is not unpacked cannot swell). Checksums are not
 * compared. `caller` is of the file's own errors. */
std::map<std::string, ZipEntry> stored_entries(
    const InputFile& file,
    std::string_view caller,
    const std::function<void(const std::string& why)>& bad);

}  // namespace mlxterp
