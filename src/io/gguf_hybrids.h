// io/gguf_hybrids.h: config.json of models whose layers are of several kinds.

#pragma once

#include <nlohmann/json.hpp>

#include "io/gguf_fields.h"

namespace mlxterp {

/** What they say of their layers, into a config that has the sizes. */
void add_granite_hybrid(const GgufFields& file, nlohmann::ordered_json& config);
void add_delta_net(const GgufFields& file, nlohmann::ordered_json& config);
void add_gemma4(const GgufFields& file, nlohmann::ordered_json& config);

}  // namespace mlxterp
