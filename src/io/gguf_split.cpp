#include "io/gguf_split.h"

#include <algorithm>
#include <optional>
#include <string_view>

namespace mlxterp {

namespace {

namespace fs = std::filesystem;

std::optional<int64_t> number(
    const GgufMetadataMap& metadata, const std::string& key) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) return std::nullopt;
  const auto* value = std::get_if<int64_t>(&found->second);
  return value ? std::optional(*value) : std::nullopt;
}

// Parts count from 0 in the file and from 1 in its name.
std::string shown(std::optional<int64_t> value, int64_t more = 0) {
  return value ? fmt::format("{}", *value + more) : "none";
}

}  // namespace

std::vector<std::string> split_names(const std::string& name) {
  // NAME, -00001, -of-00003, .gguf
  constexpr std::string_view of = "-of-", end = ".gguf";
  constexpr size_t digits = 5, tail = 1 + digits + of.size() + digits;
  if (!name.ends_with(end) || name.size() <= tail + end.size()) return {name};
  const auto stem = name.substr(0, name.size() - end.size() - tail);
  const auto part = std::string_view(name).substr(stem.size(), tail);
  const auto all_digits = [&](size_t at) {
    return std::ranges::all_of(
        part.substr(at, digits), [](char c) { return c >= '0' && c <= '9'; });
  };
  if (part[0] != '-' || part.substr(1 + digits, of.size()) != of ||
      !all_digits(1) || !all_digits(tail - digits))
    return {name};
  const int count = std::stoi(std::string(part.substr(tail - digits)));
  std::vector<std::string> names;
  for (int i = 1; i <= count; ++i)
    names.push_back(fmt::format("{}-{:05}-of-{:05}.gguf", stem, i, count));
  return names.empty() ? std::vector{name} : names;
}

std::vector<fs::path> split_paths(
    const fs::path& path, const GgufMetadataMap& metadata) {
  const auto count = number(metadata, "split.count").value_or(1);
  if (count <= 1) return {};
  const auto names = split_names(path.filename().string());
  if (static_cast<int64_t>(names.size()) != count)
    fail_split(
        path,
        "is one of {} parts, but is not called NAME-00001-of-{:05}.gguf, by "
        "which the others are found",
        count,
        count);
  std::vector<fs::path> paths;
  for (const auto& name : names) {
    paths.push_back(path.parent_path() / name);
    if (std::error_code error; !fs::exists(paths.back(), error))
      fail_split(
          path,
          "is one of {} parts, but {} is not beside it",
          count,
          printable(name));
  }
  return paths;
}

void check_part(
    const fs::path& path,
    const GgufMetadataMap& metadata,
    size_t index,
    size_t count) {
  const auto own = number(metadata, "split.no");
  const auto of = number(metadata, "split.count");
  if (own == static_cast<int64_t>(index) && of == static_cast<int64_t>(count))
    return;
  fail_split(
      path,
      "says that it is part {} of {}, its name says {} of {}",
      shown(own, 1),
      shown(of),
      index + 1,
      count);
}

void check_all_there(
    const fs::path& first, const GgufMetadataMap& metadata, size_t tensors) {
  const auto stated = number(metadata, "split.tensors.count");
  if (!stated || *stated == static_cast<int64_t>(tensors)) return;
  fail_split(
      first,
      "says that all parts hold {} tensors, they hold {}",
      *stated,
      tensors);
}

}  // namespace mlxterp
