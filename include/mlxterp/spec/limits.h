// mlxterp/spec/limits.h: how much of what is written as text is read; as
// core/limits.h, for metrics, edits, lists and ranges.

#pragma once

#include <cstddef>

namespace mlxterp::limits {

inline constexpr size_t spec_bytes = 1ull << 20;    // of the texts of one list
inline constexpr size_t spec_numbers = 1ull << 20;  // that ranges stand for
inline constexpr size_t spec_number_bytes = 64;     // of one decimal number
inline constexpr size_t spec_edits = 1024;          // in one compose(...)
inline constexpr int spec_depth = 16;               // of nested edits

}  // namespace mlxterp::limits
