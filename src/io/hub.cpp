#include "mlxterp/io/hub.h"

#include <algorithm>
#include <iterator>
#include <set>
#include <string_view>
#include <vector>

#include "core/fail.h"
#include "io/gguf_split.h"
#include "io/hub_cache.h"
#include "io/hub_download.h"
#include "io/input_file.h"
#include "io/shard_index.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/core/paths.h"

namespace mlxterp {

namespace fs = std::filesystem;

namespace {

constexpr const char* config_name = "config.json";
constexpr const char* single_name = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";
// What loading reads beside config.json and weights, where a model has it.
constexpr const char* beside_names[] = {
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json"};

// additional_chat_templates/NAME.jinja.
bool is_chat_template(std::string_view name) {
  constexpr std::string_view folder = "additional_chat_templates/";
  return name.starts_with(folder) && name.ends_with(".jinja") &&
         name.find('/', folder.size()) == name.npos;
}

bool there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

// The names of the files below a folder, as a listing has them.
std::set<std::string> files_below(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code error;
  fs::recursive_directory_iterator at(folder, error);
  for (; !error && at != fs::recursive_directory_iterator();
       at.increment(error)) {
    std::error_code ignored;
    if (!at->is_directory(ignored) && names.size() < limits::hub_files)
      names.insert(at->path().lexically_relative(folder).generic_string());
  }
  return names;
}

std::set<std::string> shards_of(const fs::path& snapshot) {
  std::set<std::string> shards;
  const auto index = read_shard_index(snapshot / index_name, hub_caller);
  for (const auto& [tensor, shard] : index.map)
    shards.insert(shard);
  return shards;
}

/** A file that a snapshot lacks, or "". */
std::string lacking(const fs::path& snapshot, const HubId& id) {
  const auto first = [&](const auto& names) -> std::string {
    for (const auto& name : names)
      if (!there(snapshot / name)) return name;
    return "";
  };
  if (!id.file.empty()) return first(split_names(id.file));
  if (!there(snapshot / config_name)) return config_name;
  if (!there(snapshot / index_name)) return first(std::vector{single_name});
  try {
    return first(shards_of(snapshot));
  } catch (const Error&) {
    return index_name;
  }
}

fs::path found(const HubCache& cache, const HubId& id, const std::string& at) {
  const auto snapshot = cache.snapshot(at);
  return id.file.empty() ? snapshot : snapshot / id.file;
}

[[noreturn]] void fail_offline(
    const HubSettings& settings, const HubId& id, const std::string& lacks) {
  fail(
      ErrorKind::environment,
      "[{}] {} {} in {}, and HF_HUB_OFFLINE forbids downloading it; unset it, "
      "or name a model on this machine",
      hub_caller,
      id.repo,
      lacks.empty() ? "is not" : fmt::format("lacks {}", printable(lacks)),
      quoted(settings.cache));
}

std::string gguf_files(const HubListing& listing) {
  constexpr int shown = 12;
  std::string out;
  int count = 0;
  for (const auto& name : listing.files)
    if (name.ends_with(".gguf") && name.find('/') == name.npos &&
        ++count <= shown)
      out += (out.empty() ? "" : ", ") + printable(name);
  if (count > shown) out += fmt::format(" and {} more", count - shown);
  return out;
}

[[noreturn]] void fail_no_model(const HubListing& listing, const HubId& id) {
  const auto ggufs = gguf_files(listing);
  if (!id.file.empty())
    fail(
        ErrorKind::environment,
        "[{}] {} has no file {}; its GGUF files: {}",
        hub_caller,
        id.repo,
        id.file,
        ggufs.empty() ? "none" : ggufs);
  if (!ggufs.empty())
    fail(
        ErrorKind::environment,
        "[{}] {} holds GGUF files; name one as {}/FILE: {}",
        hub_caller,
        id.repo,
        id.repo,
        ggufs);
  const bool pickle = std::any_of(
      listing.files.begin(), listing.files.end(), [](const auto& name) {
        return name.ends_with(".bin") || name.ends_with(".pt") ||
               name.ends_with(".pth");
      });
  fail(
      ErrorKind::bad_data,
      "[{}] {} has no {}{}; name a model that has safetensors",
      hub_caller,
      id.repo,
      listing.files.contains(config_name) ? single_name : config_name,
      pickle ? " but its weights as a pickle, which can run any code when read"
             : "");
}

/** Weights come last: where they are, the small files are too. */
void download_all(
    HubDownload& download,
    const HubCache& cache,
    const HubListing& listing,
    const HubId& id) {
  const auto has = [&](const std::string& name) {
    return listing.files.contains(name);
  };
  if (!id.file.empty()) {
    if (!has(id.file)) fail_no_model(listing, id);
    const auto parts = split_names(id.file);
    for (const auto& name : parts)
      if (!has(name))
        fail(
            ErrorKind::bad_data,
            "[{}] {} has {} of {} parts, but lacks {}; report it to its "
            "authors",
            hub_caller,
            id.repo,
            id.file,
            parts.size(),
            printable(name));
    download.fetch(listing.commit, parts);
    return;
  }
  if (!has(config_name) || (!has(index_name) && !has(single_name)))
    fail_no_model(listing, id);
  std::vector<std::string> small = {config_name};
  for (const char* name : beside_names)
    if (has(name)) small.emplace_back(name);
  std::ranges::copy_if(
      listing.files, std::back_inserter(small), is_chat_template);
  if (has(index_name)) small.emplace_back(index_name);
  download.fetch(listing.commit, small);

  std::vector<std::string> weights = {single_name};
  if (has(index_name)) {
    const auto shards = shards_of(cache.snapshot(listing.commit));
    weights.assign(shards.begin(), shards.end());
  }
  for (const auto& name : weights)
    if (!has(name))
      fail(
          ErrorKind::bad_data,
          "[{}] {} lacks the shard {} that its index names; report it to its "
          "authors",
          hub_caller,
          id.repo,
          printable(name));
  download.fetch(listing.commit, weights);
}

}  // namespace

fs::path hub_snapshot(std::string_view text, const HubOptions& options) {
  const auto id = HubId::parse(text);
  const auto settings = HubSettings::read();
  const HubCache cache(settings.cache, id.repo);
  const auto known = cache.commit_of(options.revision);
  const auto lacks = known ? lacking(cache.snapshot(*known), id) : "";
  const bool whole = known && lacks.empty();
  if (whole && (settings.offline || is_commit(options.revision)))
    return found(cache, id, *known);
  if (settings.offline) fail_offline(settings, id, lacks);

  HubDownload download(settings, options, cache, id.repo);
  HubListing listing;
  try {
    listing = download.list(/*patient=*/!whole);
  } catch (const Error&) {
    if (!whole) throw;
    return found(cache, id, *known);
  }
  download_all(download, cache, listing, id);
  // Last of all: until here a branch stands for what it stood for before.
  if (!is_commit(options.revision))
    cache.set_commit(options.revision, listing.commit);
  return found(cache, id, listing.commit);
}

fs::path hub_files(
    std::string_view repository,
    const HubChoice& choose,
    const HubOptions& options) {
  const auto id = HubId::parse(repository);
  if (!id.file.empty())
    fail(
        ErrorKind::usage,
        "[{}] '{}' is a file of a repository; name the repository, org/name",
        hub_caller,
        printable(repository));
  const auto settings = HubSettings::read();
  const HubCache cache(settings.cache, id.repo);
  const auto known = cache.commit_of(options.revision);
  const auto from_cache = [&] {
    const auto snapshot = cache.snapshot(*known);
    for (const auto& name : choose(files_below(snapshot)))
      if (!there(snapshot / name)) fail_offline(settings, id, name);
    return snapshot;
  };
  if (settings.offline && !known) fail_offline(settings, id, "");
  if (settings.offline) return from_cache();

  HubDownload download(settings, options, cache, id.repo);
  HubListing listing;
  try {
    listing = download.list(/*patient=*/!known);
  } catch (const Error&) {
    if (!known) throw;
    return from_cache();
  }
  const auto names = choose(listing.files);
  for (const auto& name : names)
    if (!listing.files.contains(name))
      fail(
          ErrorKind::environment,
          "[{}] {} has no file {}; check its name",
          hub_caller,
          id.repo,
          printable(name));
  download.fetch(listing.commit, names);
  if (!is_commit(options.revision))
    cache.set_commit(options.revision, listing.commit);
  return cache.snapshot(listing.commit);
}

fs::path find_model(const std::string& model, const HubOptions& options) {
  if (model == "demo") {
    auto path = demo_model_path();
    if (!there(path))
      fail(
          ErrorKind::environment,
          "[find_model] the demo model is not at {}; `make demo` puts it there",
          quoted(path));
    return path;
  }
  if (there(model)) return model;
  const auto slashes = std::count(model.begin(), model.end(), '/');
  const bool file = slashes <= 1 && model.ends_with(".gguf");
  const bool path = model.find_first_of("/.~") == 0;
  // What can only be a path is left to who opens it to complain about.
  if (path || file || slashes > 2) return model;
  if (slashes == 0)
    fail(
        ErrorKind::environment,
        "[find_model] '{}' is neither an existing file or folder, nor a "
        "Hugging Face id (org/name), nor 'demo'; check its spelling",
        printable(model));
  return hub_snapshot(model, options);
}

}  // namespace mlxterp
