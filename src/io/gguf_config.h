// io/gguf_config.h: the config.json that a GGUF file stands for.

#pragma once

#include <string>
#include <string_view>

#include "io/gguf_architecture.h"
#include "io/gguf_metadata.h"

namespace mlxterp {

/** Throws bad_data: metadata that is missing, out of its range or contradicts
 * the tensors. */
std::string make_config(
    const Gguf& gguf,
    const GgufMetadata& metadata,
    const GgufArchitecture& architecture);

/** Whether the tensor is the config's, not the checkpoint's. */
bool is_in_config(std::string_view tensor);

}  // namespace mlxterp
