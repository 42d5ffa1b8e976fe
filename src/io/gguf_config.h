// io/gguf_config.h: the config.json that a GGUF file stands for.

#pragma once

#include <cstdint>
#include <string>

#include "io/gguf_architecture.h"
#include "io/gguf_metadata.h"

namespace mlxterp {

/** Throws bad_data: metadata that is missing, out of its range or contradicts
 * the tensors. */
std::string make_config(
    const Gguf& gguf,
    const GgufMetadata& metadata,
    const GgufArchitecture& architecture);

/** How many of the last blocks predict further tokens; they are no layers. */
int64_t draft_blocks(
    const GgufMetadata& metadata, const GgufArchitecture& architecture);

}  // namespace mlxterp
