// io/mxfp4_blocks.h: matrices that transformers keeps in MXFP4.

#pragma once

#include <filesystem>
#include <vector>

#include "io/quantized.h"

namespace mlxterp {

/**
 * The matrices of a folder whose quantization_config.quant_method is "mxfp4":
 * X_blocks, U8 [..., row, group, 16], two numbers a byte, the first in the
 * lower bits, and X_scales, U8 [..., row, group]. That is MLX's mxfp4 byte by
 * byte, so each becomes one such matrix, X.weight [..., row, column]. Throws
 * bad_data for parts that are missing or do not fit.
 */
std::vector<QuantizedMatrix> find_mxfp4_blocks(
    const std::filesystem::path& folder,
    const std::vector<TensorInFile>& tensors);

}  // namespace mlxterp
