// io/gguf_checkpoint.h: a GGUF file in Hugging Face's words.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "mlxterp/io/gguf.h"
#include "mlxterp/io/tensor_info.h"

namespace mlxterp {

/** What the file does to a checkpoint's tensor, to be undone on reading. */
struct GgufChange {
  int64_t interleaved_heads = 0;  ///< As DecodeOptions has it.
  bool transposed = false;
  bool one_added = false;
};

struct RenamedTensor {
  TensorInfo info;  ///< Under its checkpoint name, with its shape there.
  GgufChange change = {};
  const InputFile* file = nullptr;  ///< Of the Gguf.
};

struct GgufCheckpoint {
  std::string config;  ///< The text of a config.json.
  std::vector<RenamedTensor> tensors;
};

/** Throws bad_data: an architecture not known here, metadata that is missing,
 * out of its range or contradicts the tensors. */
GgufCheckpoint to_checkpoint(const Gguf& gguf);

}  // namespace mlxterp
