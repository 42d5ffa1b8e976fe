// models/mixer_names.h: what mixes positions in each layer.

#pragma once

#include <string>
#include <vector>

#include "mlxterp/models/decoder.h"

namespace mlxterp {

/** The name of each layer's mixer, "attn" of attention. */
std::vector<std::string> mixer_names(const DecoderConfig& config);

}  // namespace mlxterp
