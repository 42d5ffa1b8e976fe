// mlxterp/core/paths.h: where files are on this machine.

#pragma once

#include <filesystem>

namespace mlxterp {

/** The user's cache folder: $MLXTERP_CACHE, else $XDG_CACHE_HOME/mlxterp, else
 * ~/.cache/mlxterp. It need not exist. Throws where none is set. */
std::filesystem::path cache_folder();

/** The demo model that `make demo` puts into the cache folder. */
std::filesystem::path demo_model_path();

}  // namespace mlxterp
