// io/quantized.h: matrices as MLX packs them in a safetensors folder.

#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/decode.h"
#include "mlxterp/io/tensor_info.h"

namespace mlxterp {

class InputFile;

/** How a matrix is packed: groups of numbers along a row share a scale. */
struct Packing {
  enum class Mode { affine, mxfp4, mxfp8, nvfp4 };
  Mode mode = Mode::affine;
  int group = 0;
  int bits = 0;

  /** The mode as MLX calls it. */
  std::string_view name() const;
};

/** A tensor and the file it lies in. */
struct TensorInFile {
  TensorInfo info;
  const InputFile* file;
};

/** X.weight (U32), X.scales and, where affine, X.biases of one module, with
 * nvfp4 perhaps X.global_scale of each matrix; or transformers' X_blocks, as if
 * they were X.weight, and X_scales. */
struct QuantizedMatrix {
  Packing packing;
  TensorInFile weight, scales;
  std::optional<TensorInFile> biases, global_scale;
  /** Of the matrix as it is read: unpacked shape, the bytes of all parts. */
  TensorInfo info;
};

/**
 * The packed matrices among a folder's tensors, as its config.json's
 * "quantization" says, or transformers' "quantization_config" of MXFP4. Throws
 * bad_data: packings MLX does not have, parts that are missing or do not fit,
 * settings for modules that are not there, packed weights that the config does
 * not explain, and other makers' quantisation.
 */
std::vector<QuantizedMatrix> find_quantized(
    const std::filesystem::path& folder,
    const nlohmann::json& config,
    const std::vector<TensorInFile>& tensors);

/** The matrix's numbers, as decode() gives those of a tensor. Where no dtype is
 * asked: the scales' own, bfloat16 where these are not numbers. */
Decoded dequantize(const QuantizedMatrix& matrix, const DecodeOptions& options);

}  // namespace mlxterp
