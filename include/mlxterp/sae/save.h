// mlxterp/sae/save.h: SAEs and transcoders as files that other tools load.

#pragma once

#include <filesystem>
#include <vector>

#include "mlxterp/sae/sae.h"
#include "mlxterp/sae/set.h"

namespace mlxterp {

/**
 * Writes a folder that SAELens 6 loads (`SAE.load_from_disk`): cfg.json and
 * sae_weights.safetensors, which also load_sae reads. Its encode and decode are
 * those of `sae`. Evaluates. cfg.json comes last, each file whole or not at
 * all. Throws usage for what SAELens has no class of (groups, a transcoder of k
 * features, cross-layer) and where `folder` holds one, unless `overwrite`.
 */
void save_saelens(
    const Sae& sae,
    const std::filesystem::path& folder,
    bool overwrite = false);

/**
 * Writes a folder that circuit-tracer loads: config.yaml and a file for each
 * layer, of transcoders or of a cross-layer transcoder. Reads one layer of the
 * set at a time; evaluates; config.yaml comes last. Throws usage for what
 * circuit-tracer has no class of (ReLU of the k largest, a norm) and where
 * `folder` holds a set, unless `overwrite`.
 */
void save_circuit_tracer(
    const SaeSet& set,
    const std::filesystem::path& folder,
    bool overwrite = false);

/** The same of transcoders that were read one by one: layer 0 first, then
 * every other in order. */
void save_circuit_tracer(
    const std::vector<Sae>& transcoders,
    const std::filesystem::path& folder,
    bool overwrite = false);

}  // namespace mlxterp
