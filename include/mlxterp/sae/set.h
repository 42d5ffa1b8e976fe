// mlxterp/sae/set.h: a transcoder for each layer of a model, or one across all
// of them.

#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "mlx/array.h"
#include "mlxterp/sae/load.h"
#include "mlxterp/sae/sae.h"

namespace mlxterp {

/**
 * circuit-tracer's folders: config.yaml with a file for each layer's
 * transcoder, or W_enc_N.safetensors and W_dec_N.safetensors of a cross-layer
 * transcoder. Layers are read, and downloaded, when they are asked for; nothing
 * is kept. A cheap handle on shared, immutable state; const members may be
 * called from several threads. Throws Error as load_sae does.
 */
class SaeSet {
 public:
  /** Whether load_sae's name means a set and not one SAE. Downloads what tells
   * it. */
  static bool is_set(
      const std::string& name, const SaeLoadOptions& options = {});

  /** Reads the configuration; `options.layer` is not looked at. */
  static SaeSet open(
      const std::string& name, const SaeLoadOptions& options = {});

  SaeKind kind() const;  ///< transcoder or cross_layer
  int layers() const;
  const std::filesystem::path& path() const;  ///< The folder.
  const std::string& model() const;
  const std::string& hook_in() const;   ///< "hook_resid_mid"
  const std::string& hook_out() const;  ///< "hook_mlp_out"
  const std::string& scan() const;      ///< Neuronpedia's name of it.

  /** One of them, 0 to layers() - 1. Of a cross_layer its decoders too, to the
   * layers `layer`, ..., layers() - 1. Throws out_of_range. */
  Sae layer(int layer) const;

  /**
   * What all layers together say of each layer's output: `x[i]` [n, d_in] of
   * layer i gives [n, d_out] each. One layer's weights are in memory at a time;
   * evaluates.
   */
  std::vector<mlx::core::array> reconstruct(
      const std::vector<mlx::core::array>& x) const;

  struct Files;  // private to set.cpp

 private:
  std::shared_ptr<const Files> files_;
};

}  // namespace mlxterp
