// io/gguf_keys.h: what becomes of each metadata key that llama.cpp knows.

#pragma once

#include <span>
#include <string_view>

#include "io/gguf_architecture.h"
#include "io/gguf_metadata.h"

namespace mlxterp {

/** A key of an architecture, without the architecture's name in front. */
struct GgufKey {
  enum class Use {
    read,      ///< In the architectures named, by io/gguf_config.
    harmless,  ///< Says nothing of what the model computes.
    refused,   ///< Unless its value is the neutral one.
  };
  std::string_view field;
  Use use = Use::refused;
  /** For `read`: the architectures, "!" for those with a rotation, empty for
   * all. Elsewhere it is refused, where it is not of GgufArchitecture::fields.
   */
  std::string_view read_by = {};
  /** The value that changes nothing, of every element where it is an array. */
  double neutral = 0;
};

/** Every key that llama.cpp reads for some architecture and that could stand in
 * a file of one that is read here. */
std::span<const GgufKey> gguf_keys();

/** Throws bad_data for a key that would change what the model computes and is
 * not read here. Keys that llama.cpp does not know say nothing. */
void check_keys(
    const Gguf& gguf,
    const GgufMetadata& metadata,
    const GgufArchitecture& architecture);

}  // namespace mlxterp
