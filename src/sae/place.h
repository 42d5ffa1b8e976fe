// sae/place.h: which of a folder's files make an SAE.

#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "mlxterp/sae/load.h"
#include "sae/formats/format.h"

namespace mlxterp {

/** A name that a user gave, found: on this machine, or in a repository whose
 * files are in the cache as far as they were needed yet. */
struct FoundSae {
  std::filesystem::path path;
  /** Names right in it, where it is a folder; a repository's too that are not
   * downloaded. */
  std::set<std::string> names = {};
  std::string repository = {};  ///< "org/name"; empty: on this machine
  std::string inside = {};      ///< The path in it.
};

/** Weights, and what JSON and YAML lie beside them, are downloaded; of a set
 * only the latter. Throws as load_sae. */
FoundSae find_place(const std::string& name, const SaeLoadOptions& options);

/** A file of a folder that was found; downloaded where it is missing. */
std::filesystem::path file_of(
    const FoundSae& found,
    const std::string& name,
    const SaeLoadOptions& options);

/** "hf://org/name/path?revision=x", downloaded. */
std::filesystem::path file_of_uri(
    const std::string& uri, const SaeLoadOptions& options);

/** Whether names in a folder are those of a set of transcoders. */
bool names_a_set(const std::set<std::string>& names);

/** What the names of one folder say are its weights: one of the usual names,
 * or the only one that could be; several or none where that is so. */
std::vector<std::string> weights_among(const std::set<std::string>& names);

/** Opens the weights that a file or folder is about and finds the JSON beside
 * them. Throws bad_data or environment, saying what lies there instead. */
sae_format::Input open_place(
    const std::filesystem::path& place, const SaeLoadOptions& options);

/** Whether it is a set of transcoders. */
bool is_set(const FoundSae& found);

/** load_sae of what lies there. */
Sae load_sae_at(
    const std::filesystem::path& place, const SaeLoadOptions& options);

}  // namespace mlxterp
