// io/decode.h: from a tensor's bytes in a file to an array in memory.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/gguf_quants.h"
#include "mlx/array.h"
#include "mlxterp/io/tensor_info.h"

namespace mlxterp {

class InputFile;
class TensorMemory;

/** How numbers lie in a file. */
struct Encoding {
  std::string_view name;    ///< As TensorInfo::type has it.
  uint32_t block;           ///< Numbers in a block, 1 where not quantised.
  uint32_t bytes;           ///< Bytes of a block.
  mlx::core::Dtype dtype;   ///< What it is read as where nothing is asked.
  Unpack unpack = nullptr;  ///< To float32; null for integers and BOOL.
};

/** The encoding of that name, or nullptr. */
const Encoding* find_encoding(std::string_view name);

/** The product of a shape, or nothing where it does not fit 64 bits. */
std::optional<uint64_t> count_numbers(const std::vector<int64_t>& shape);

/** The bytes a tensor takes, or nothing where they do not fit 64 bits or its
 * rows are not whole blocks. */
std::optional<uint64_t> count_bytes(
    const std::vector<int64_t>& shape, const Encoding& encoding);

/** "[2, 3]" */
std::string shown(const std::vector<int64_t>& shape);

struct DecodeOptions {
  std::string_view caller;  ///< Starts the messages.
  std::optional<mlx::core::Dtype> dtype = std::nullopt;
  /** Where > 0, rows of that many heads lie in the order of interleaved
   * rotary pairs (0 h/2 1 h/2+1 ...) and are put back to 0 1 2 ... */
  int64_t interleaved_heads = 0;
  TensorMemory* memory = nullptr;  ///< Else it has memory of its own.
};

struct Decoded {
  mlx::core::array values;
  uint64_t not_finite;  ///< NaN and Inf among the values.
};

/**
 * Copies a tensor out of a file in one pass over both, split over the cores.
 * The array is evaluated. Throws usage (a dtype that is not a float's),
 * bad_data (the file changed, a BOOL that is neither 0 nor 1) or environment
 * (no memory).
 */
Decoded decode(
    const InputFile& file,
    const TensorInfo& tensor,
    const DecodeOptions& options);

/** Makes the `n` numbers from `first` on, which is a multiple of 4096. Called
 * from several threads; must not throw. */
using Make = std::function<void(size_t first, size_t n, float* out)>;

/** As decode(), of a tensor's numbers however they are made; `own` is the dtype
 * where none is asked. */
Decoded decode_made(
    const TensorInfo& tensor,
    mlx::core::Dtype own,
    const DecodeOptions& options,
    const Make& make);

}  // namespace mlxterp
