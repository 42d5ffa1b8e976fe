// sae/place.h: which of a folder's files make an SAE.

#pragma once

#include <filesystem>
#include <string>

#include "mlxterp/sae/load.h"
#include "sae/formats/format.h"

namespace mlxterp {

/** Opens the weights that a file or folder is about and finds the JSON beside
 * them. Throws bad_data or environment, saying what lies there instead. */
sae_format::Input open_place(
    const std::filesystem::path& place, const SaeLoadOptions& options);

}  // namespace mlxterp
