// sae/set_config.h: config.yaml of circuit-tracer's sets.

#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace mlxterp {

struct SetConfig {
  std::string model, hook_in, hook_out, scan;
  std::string activation;  ///< "topk", "relu" or "", what the file says
  std::optional<int> k;
  bool cross_layer = false;
  /** Where each layer is, in order: a path beside it or hf://...; empty: files
   * of the usual names beside it. */
  std::vector<std::string> layers;

  /** "blocks.3.hook_mlp_out" of "hook_mlp_out". */
  static std::string hook(const std::string& name, int layer);
};

/** Of a folder; absent where there is no config.yaml. Throws bad_data. */
std::optional<SetConfig> read_set_config(const std::filesystem::path& folder);

}  // namespace mlxterp
