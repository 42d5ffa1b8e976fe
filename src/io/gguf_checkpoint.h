// io/gguf_checkpoint.h: a GGUF file in Hugging Face's words.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mlxterp/io/checkpoint.h"
#include "mlxterp/io/gguf.h"
#include "mlxterp/io/tensor_info.h"

namespace mlxterp {

/** Heads of values, in turn by the groups that they belong to; the checkpoint
 * has all of one group first. */
struct TiledHeads {
  int64_t groups = 0;  ///< 0: none are.
  int64_t each = 1;    ///< Heads of a group.
  int64_t first = 0;   ///< So many rows before them stay.
  bool columns = false;
};

/** What the file does to a checkpoint's tensor, to be undone on reading. */
struct GgufChange {
  int64_t interleaved_heads = 0;  ///< As DecodeOptions has it.
  bool transposed = false;
  bool one_added = false;
  bool log_of_negative = false;  ///< The checkpoint has ln(-x).
  TiledHeads tiled = {};
  std::optional<float> number = {};  ///< It is this one, from the metadata.
};

struct RenamedTensor {
  TensorInfo info;  ///< Under its checkpoint name, with its shape there.
  GgufChange change = {};
  const InputFile* file = nullptr;  ///< Of the Gguf.
};

struct GgufCheckpoint {
  std::string config;  ///< The text of a config.json.
  std::vector<RenamedTensor> tensors;
  std::optional<LeftOut> drafts = {};
};

/** Throws bad_data: an architecture not known here, metadata that is missing,
 * out of its range or contradicts the tensors. */
GgufCheckpoint to_checkpoint(const Gguf& gguf);

}  // namespace mlxterp
