#include "mlxterp/core/paths.h"

#include <cstdlib>

#include "core/fail.h"

namespace mlxterp {

namespace {

const char* environment(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? value : nullptr;
}

}  // namespace

std::filesystem::path cache_folder() {
  if (const char* folder = environment("MLXTERP_CACHE")) return folder;
  if (const char* folder = environment("XDG_CACHE_HOME"))
    return std::filesystem::path(folder) / "mlxterp";
  if (const char* folder = environment("HOME"))
    return std::filesystem::path(folder) / ".cache" / "mlxterp";
  fail(
      ErrorKind::environment,
      "[cache_folder] none of MLXTERP_CACHE, XDG_CACHE_HOME and HOME is set; "
      "set MLXTERP_CACHE to a folder");
}

std::filesystem::path demo_model_path() {
  return cache_folder() / "SmolLM2-135M-Instruct.Q4_1.gguf";
}

}  // namespace mlxterp
