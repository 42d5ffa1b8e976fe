// io/npy.h: one array as numpy writes it, in a file or an archive.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "mlx/array.h"
#include "mlxterp/core/error.h"

namespace mlxterp {

inline constexpr std::string_view npy_magic = "\x93NUMPY";

/** Where a .npy comes from. */
struct NpySource {
  std::string_view caller;  ///< Begins messages.
  uint64_t size = 0;        ///< Bytes of all of it.
  /** The error that says what is wrong with it. */
  std::function<Error(std::string_view why)> error;
  /** The next bytes, all that are asked for. Throws. */
  std::function<void(std::span<std::byte> to)> fill;
  std::string shown = {};  ///< For messages: "'x' of 'file.npz'".
};

/** Little-endian numbers in C order, evaluated, in their own dtype; float64
 * becomes float32. What the header says is checked against `size` before it
 * sizes anything. */
mlx::core::array read_npy(const NpySource& source);

/** What numpy calls numbers of that dtype; empty: nothing. */
std::string_view npy_descr(mlx::core::Dtype dtype);

}  // namespace mlxterp
