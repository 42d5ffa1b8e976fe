// mlxterp/sae/load.h: sparse autoencoders from the files of whoever trained
// them.

#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "mlxterp/core/progress.h"
#include "mlxterp/sae/sae.h"

namespace mlxterp {

/** A layout of files that is read. */
struct SaeFormat {
  std::string_view name;     ///< "gemma_scope", for SaeLoadOptions::format.
  std::string_view summary;  ///< What it is, in a line for people.
};

std::span<const SaeFormat> sae_formats();

struct SaeLoadOptions {
  /** A name of sae_formats(); empty: found out from what is in the files. */
  std::string format = {};
  /** Of a set of transcoders, which; -1: there is one only. */
  int layer = -1;
  /** What activations were multiplied by in training, where the files say that
   * they were and not by how much. 1: it is folded in already. */
  std::optional<float> activation_scale = {};
  /** Active features of a TopK SAE whose files do not say (Qwen Scope says it
   * in the repository's name). */
  std::optional<int> k = {};
  std::string revision = "main";  ///< Of a hub id.
  Progress progress = {};         ///< Of a download.
};

/**
 * An SAE or a transcoder from a folder, a file, or a hub id with a path inside
 * the repository ("google/gemma-scope-2b-pt-res/layer_20/width_16k/..."), whose
 * files are downloaded into the cache of Hugging Face's tools. What it is is
 * told from its contents, whatever it is called. Its arrays are evaluated but
 * for what is folded in.
 *
 * Nothing in the files is run: of pickles only tensors and plain values are
 * read. Throws Error: usage for a name or an option that is none, bad_data for
 * files that are no SAE, are broken, hold NaN or lack a norm or a threshold,
 * environment for the rest.
 */
Sae load_sae(const std::string& name, const SaeLoadOptions& options = {});

/** Where the files of such a name lie; a hub id's are downloaded where they are
 * missing. Throws as load_sae. */
std::filesystem::path find_sae(
    const std::string& name, const SaeLoadOptions& options = {});

}  // namespace mlxterp
