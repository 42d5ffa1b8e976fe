// io/gguf_affine.h: GGUF's blocks as MLX packs matrices.

#pragma once

#include <optional>
#include <string_view>

#include "mlxterp/io/packed.h"
#include "mlxterp/io/tensor_info.h"

namespace mlxterp {

class InputFile;

/** Whether a type's numbers are, each group of 32, a scale times an integer and
 * a bias: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K and Q5_K. */
bool is_affine(std::string_view type);

/**
 * The matrix [..., rows, columns] as MLX packs it, in groups of 32, each number
 * what it is in the file. `interleaved_heads`: as DecodeOptions has it. Absent
 * where a number is not finite, or a scale so large that float16 does not hold
 * its bias.
 */
std::optional<Packed> affine_from_gguf(
    const InputFile& file,
    const TensorInfo& tensor,
    int64_t interleaved_heads,
    std::string_view caller);

}  // namespace mlxterp
