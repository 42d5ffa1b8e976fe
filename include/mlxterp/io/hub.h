// mlxterp/io/hub.h: models by their Hugging Face id: from the cache on this
// machine, else downloaded into it.

#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "mlxterp/core/progress.h"

namespace mlxterp {

struct HubOptions {
  std::string revision = "main";  ///< A branch, a tag or a commit.
  Progress progress = {};         ///< Of what is downloaded, in bytes.
  /** The pause before the first new attempt; it doubles from there. */
  std::chrono::milliseconds pause{500};
};

/**
 * The folder of "org/name", or the file of "org/name/file.gguf", in the cache
 * that Hugging Face's own tools use and find it in. Of a repository only what
 * a Checkpoint and its Tokenizer read is downloaded: what is there already is
 * kept, what was cut off goes on, and a file appears whole or not at all.
 *
 * A commit that is cached whole is never asked for again. A branch or a tag is
 * looked up each time; where the hub cannot say, a copy that is whole is used.
 *
 * Read from the environment: HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME (where the
 * cache is), HF_HUB_OFFLINE (no network), HF_ENDPOINT (another hub), HF_TOKEN,
 * HF_TOKEN_PATH (access), HF_HUB_DOWNLOAD_TIMEOUT (idle seconds before a new
 * attempt, 30), SSL_CERT_FILE and the proxies that libcurl knows. The
 * token goes to the hub alone, not to where the hub redirects to.
 *
 * May be called from several threads and processes at once. Throws Error:
 * usage for what is not an id, bad_data for an answer that is not what it
 * claims to be, environment for the rest.
 */
std::filesystem::path hub_snapshot(
    std::string_view id, const HubOptions& options = {});

/** Of the names of a repository's files, "folder/file", those that are wanted;
 * may throw where it finds none. */
using HubChoice =
    std::function<std::vector<std::string>(const std::set<std::string>& names)>;

/**
 * The folder of the repository "org/name" in the cache, with those of its files
 * in it that `choose` wants: anything that is no model. What is there already
 * is not downloaded again. Where the hub cannot be asked, `choose` gets the
 * names of what the cache has. Throws as hub_snapshot.
 */
std::filesystem::path hub_files(
    std::string_view repository,
    const HubChoice& choose,
    const HubOptions& options = {});

/** Where a model lies that a user names: "demo", a path that exists, or else a
 * hub id (see hub_snapshot). */
std::filesystem::path find_model(
    const std::string& model, const HubOptions& options = {});

}  // namespace mlxterp
