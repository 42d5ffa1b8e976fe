// io/gguf_split.h: the parts of a GGUF file that was split.

#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/fail.h"
#include "io/input_file.h"
#include "mlxterp/io/gguf.h"

namespace mlxterp {

using GgufMetadataMap = std::map<std::string, GgufValue>;

/** The names of all parts where this is the name of one; else itself. */
std::vector<std::string> split_names(const std::string& name);

/** All parts of the file at `path`, the first first; none where it is whole.
 * They are called NAME-00002-of-00003.gguf and lie in one folder. Throws
 * bad_data. */
std::vector<std::filesystem::path> split_paths(
    const std::filesystem::path& path, const GgufMetadataMap& metadata);

/** Throws bad_data where a part says it is another than number `index`. */
void check_part(
    const std::filesystem::path& path,
    const GgufMetadataMap& metadata,
    size_t index,
    size_t count);

/** Throws bad_data where the first part says another number of tensors. */
void check_all_there(
    const std::filesystem::path& first,
    const GgufMetadataMap& metadata,
    size_t tensors);

template <typename... T>
[[noreturn]] void fail_split(
    const std::filesystem::path& path,
    fmt::format_string<T...> what,
    T&&... values) {
  fail(
      ErrorKind::bad_data,
      "[Gguf::open] {} {}; download all parts of the model again",
      quoted(path),
      fmt::format(what, std::forward<T>(values)...));
}

}  // namespace mlxterp
