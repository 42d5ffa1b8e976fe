// io/gguf_fields.h: what a file says, by keys without the architecture's name.

#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf_architecture.h"
#include "io/gguf_metadata.h"

namespace mlxterp {

/** Views of one file, which outlives it. Every number is held against its
 * limit; the rest throws bad_data. */
struct GgufFields {
  const Gguf& gguf;
  const GgufMetadata& metadata;
  const GgufArchitecture& architecture;

  std::string key(std::string_view field) const {
    return fmt::format("{}.{}", architecture.name, field);
  }

  bool has(std::string_view field) const { return metadata.has(key(field)); }

  std::optional<int64_t> find_integer(
      std::string_view field, int64_t least, int64_t most) const {
    return metadata.find_integer(key(field), least, most);
  }

  int64_t integer(std::string_view field, int64_t most) const {
    return metadata.integer(key(field), 1, most);
  }

  std::optional<double> find_number(std::string_view field) const {
    return metadata.find_number(key(field));
  }

  /** 0 is none. */
  std::optional<double> number_or_none(std::string_view field) const {
    const auto* value = metadata.find<double>(key(field), "a float");
    if (!value || *value == 0) return std::nullopt;
    return find_number(field);
  }

  /** Of each of `count` blocks: a list, or one number for all. */
  std::vector<int64_t> integers(
      std::string_view field, int64_t count, int64_t least, int64_t most) const;

  /** Of each of `count` blocks; empty where there is no list. */
  std::vector<bool> flags(std::string_view field, int64_t count) const;

  const TensorInfo* find_tensor(std::string_view name) const;
  bool has_tensor(std::string_view name) const { return find_tensor(name); }

  /** A vector of positive numbers. */
  std::vector<float> numbers(std::string_view tensor) const;
};

}  // namespace mlxterp
