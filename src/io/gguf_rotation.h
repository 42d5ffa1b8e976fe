// io/gguf_rotation.h: how queries and keys turn, as config.json says it.

#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "io/gguf_fields.h"

namespace mlxterp {

/** Of heads of `head_dim`, in a model of so long a context, into its config.
 * Throws bad_data for a scaling that is said twice or not at all as a whole. */
void add_rotation(
    const GgufFields& file,
    int64_t head_dim,
    int64_t context,
    nlohmann::ordered_json& config);

/** Whether the config says what this tensor holds: a stretch of rotations. */
bool is_in_config(std::string_view tensor);

}  // namespace mlxterp
