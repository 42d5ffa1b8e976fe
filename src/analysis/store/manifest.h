// analysis/store/manifest.h: how a store is made, as its files say it, and what
// of one a folder holds.

#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "analysis/store/windows.h"
#include "io/resumable_folder.h"
#include "mlxterp/analysis/activation_store.h"

namespace mlxterp::store {

inline constexpr const char* function = "activation_store";
inline constexpr const char* format = "mlxterp-activations-1";
inline constexpr const char* manifest_name = "manifest.json";
/** A shard's metadata: the settings, and where the text goes on. */
inline constexpr const char* settings_key = "mlxterp_activations";
inline constexpr const char* place_key = "next";
inline constexpr const char* skip_key = "skip";
/** What every row has besides the sites, int32. */
inline constexpr const char* row_names[] = {"tokens", "positions", "documents"};

using Json = nlohmann::ordered_json;

std::string shard_name(int64_t shard);
/** How many shards there are from the first on, of a folder's names. Throws
 * bad_data where one is missing before another. */
int64_t shards_of(
    const std::filesystem::path& folder, const std::set<std::string>& names);

Json to_json(const StoredTensor& tensor);
/** Throws bad_data; `where` is in the message. */
StoredTensor tensor_of(const nlohmann::json& json, const std::string& where);

/** Throws usage, which names each setting that differs, as the store has it and
 * as it is asked for. Of one model its name may differ; what is not asked for
 * is as the store has it. */
void check_same(
    const std::filesystem::path& folder,
    nlohmann::json store,
    nlohmann::json asked);

/** What stands in the last whole file of a store. */
struct Found {
  int64_t shards = 0, rows = 0;
  WindowPlace place = {};  ///< Where the block begins that comes next, and
  int64_t skip = 0;        ///< how many of its rows stand in the files.
  bool complete = false;   ///< A manifest says so, and they are all there.
  std::vector<StoredTensor> tensors = {};
  int64_t shard_rows = 0;
};

/** Holds a folder for one process, and what it found there. */
class Folder {
 public:
  /** Makes it where it is not. Throws usage where it holds no store but
   * something else, or one and `resume` is false; environment where another
   * process has it. */
  Folder(const std::filesystem::path& path, bool resume);

  /** What is there, of the same settings, each file checked; removes what a
   * killed process left half-written, and the manifest of a store that lost its
   * last files. Throws usage where settings differ, bad_data where a file is
   * missing or broken. */
  Found find(const nlohmann::json& settings) const;

 private:
  void check_manifest(Found& found) const;

  ResumableFolder folder_;
};

}  // namespace mlxterp::store
