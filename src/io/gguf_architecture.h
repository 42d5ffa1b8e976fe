// io/gguf_architecture.h: what GGUF and Hugging Face call the same tensors.

#pragma once

#include <span>
#include <string_view>

#include "io/gguf_metadata.h"

namespace mlxterp {

/** How llama.cpp's converter changes a tensor. */
enum class Stored {
  as_is,
  query_rows,  ///< Rows in the order of interleaved rotary pairs.
  key_rows,
  transposed,
  one_added,  ///< To the gain of a norm, not to its bias.
};

struct GgufRenaming {
  std::string_view gguf;
  std::string_view checkpoint;
  Stored stored = Stored::as_is;
};

struct GgufArchitecture {
  std::string_view name;        ///< general.architecture
  std::string_view model_type;  ///< config.json
  std::string_view layers;      ///< What stands for blk.
  std::span<const GgufRenaming> whole;
  std::span<const GgufRenaming> in_block;  ///< After the block's number.
};

/** Every one that is known here. */
std::span<const GgufArchitecture> gguf_architectures();

/** Throws bad_data where the file's is not known here. */
const GgufArchitecture& find_architecture(const GgufMetadata& metadata);

}  // namespace mlxterp
