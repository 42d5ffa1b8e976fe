#include "sae/place.h"

#include <algorithm>
#include <set>
#include <vector>

#include "io/input_file.h"
#include "io/json.h"
#include "mlxterp/core/limits.h"
#include "mlxterp/io/hub.h"

namespace fs = std::filesystem;

namespace mlxterp {

namespace {

using sae_format::caller;

constexpr const char* deep_weights = "checkpoints/final.safetensors";

// What weights are called in a folder of one SAE, in the order of looking.
constexpr const char* weight_names[] = {
    "sae_weights.safetensors",
    "sae.safetensors",
    "params.safetensors",
    "params.npz",
    "ae.pt",
    deep_weights,
    "final.safetensors",
};

constexpr const char* config_names[] = {
    "cfg.json", "config.json", "hyperparams.json"};

constexpr std::string_view suffixes[] = {".safetensors", ".npz", ".pt", ".pth"};

// Beside weights, but no weights of an SAE.
constexpr std::string_view not_weights[] = {
    "sparsity.safetensors",
    "activation_whitening.safetensors",
    "activations_store_state.safetensors",
    "trainer_state.pt",
};

bool there(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

bool could_be_weights(const std::string& name) {
  return std::ranges::any_of(
             suffixes, [&](auto end) { return name.ends_with(end); }) &&
         std::ranges::find(not_weights, name) == std::end(not_weights);
}

bool is_small(const std::string& name) {
  return name.ends_with(".json") || name.ends_with(".yaml");
}

struct Listing {
  std::set<std::string> folders, files;
};

Listing listed(const fs::path& folder) {
  Listing out;
  std::error_code error;
  fs::directory_iterator at(folder, error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    std::error_code ignored;
    (at->is_directory(ignored) ? out.folders : out.files)
        .insert(at->path().filename().string());
  }
  if (error)
    fail(
        ErrorKind::environment,
        "[{}] {} cannot be listed ({}); check its permissions",
        caller,
        quoted(folder),
        error.message());
  if (there(folder / deep_weights)) out.files.insert(deep_weights);
  return out;
}

std::string some(const std::set<std::string>& names) {
  constexpr size_t most = 6;
  std::string out;
  size_t i = 0;
  for (const auto& name : names) {
    if (++i > most) break;
    out += (i > 1 ? ", " : "") + printable(name, 60);
  }
  if (names.size() > most)
    out += fmt::format(" and {} more", names.size() - most);
  return out;
}

[[noreturn]] void fail_choice(
    const std::string& where,
    const std::vector<std::string>& weights,
    const Listing& listing) {
  if (weights.size() > 1)
    fail(
        ErrorKind::bad_data,
        "[{}] {} holds several files of weights; name one: {}",
        caller,
        where,
        some({weights.begin(), weights.end()}));
  fail(
      ErrorKind::bad_data,
      "[{}] {} holds no SAE; name the folder or the file of one ({})",
      caller,
      where,
      !listing.folders.empty() ? some(listing.folders)
      : listing.files.empty()  ? "it is empty"
                               : "it has " + some(listing.files));
}

fs::path weights_in(const fs::path& folder) {
  const auto listing = listed(folder);
  const auto weights = weights_among(listing.files);
  if (weights.size() == 1) return folder / weights[0];
  fail_choice(quoted(folder), weights, listing);
}

fs::path config_of(const fs::path& weights) {
  const auto folder = weights.parent_path();
  // "X_cfg.json" of "X.pt".
  auto own = weights;
  own.replace_filename(weights.stem().string() + "_cfg.json");
  if (there(own)) return own;
  std::vector<fs::path> folders = {folder};
  if (folder.filename() == "checkpoints")
    folders.push_back(folder.parent_path());
  for (const auto& from : folders)
    for (const char* name : config_names)
      if (there(from / name)) return from / name;
  return {};
}

// What lies right in a folder of a repository, and the one place deeper.
Listing listed(const std::set<std::string>& names, const std::string& folder) {
  Listing out;
  const auto prefix = folder.empty() ? "" : folder + "/";
  for (const auto& name : names) {
    if (!name.starts_with(prefix)) continue;
    const auto rest = name.substr(prefix.size());
    const auto slash = rest.find('/');
    if (slash == rest.npos || rest == deep_weights)
      out.files.insert(rest);
    else
      out.folders.insert(rest.substr(0, slash));
  }
  return out;
}

std::string parent_of(const std::string& path) {
  const auto slash = path.rfind('/');
  return slash == path.npos ? "" : path.substr(0, slash);
}

std::string joined(const std::string& folder, const std::string& name) {
  return folder.empty() ? name : folder + "/" + name;
}

HubOptions hub_options(const SaeLoadOptions& options) {
  return {.revision = options.revision, .progress = options.progress};
}

// Of a repository's files those that make the SAE at `inside`.
std::vector<std::string> wanted(
    const std::set<std::string>& names,
    const std::string& repository,
    const std::string& inside) {
  std::vector<std::string> out;
  const bool file = names.contains(inside);
  const auto folder = file ? parent_of(inside) : inside;
  const auto listing = listed(names, folder);
  const auto where = joined(repository, inside);
  if (listing.files.empty() && listing.folders.empty())
    fail(
        ErrorKind::environment,
        "[{}] {} has no '{}'; it has {}",
        caller,
        repository,
        printable(inside),
        some(listed(names, "").folders));
  for (const auto& name : listing.files)
    if (is_small(name)) out.push_back(joined(folder, name));
  if (file) {
    if (!is_small(inside)) out.push_back(inside);
  } else if (!names_a_set(listing.files)) {
    const auto weights = weights_among(listing.files);
    const bool configured = listing.files.contains("config.yaml");
    if (weights.size() == 1)
      out.push_back(joined(folder, weights[0]));
    else if (!configured)
      fail_choice(where, weights, listing);
  }
  return out;
}

}  // namespace

std::vector<std::string> weights_among(const std::set<std::string>& names) {
  for (const char* name : weight_names)
    if (names.contains(name)) return {name};
  std::vector<std::string> out;
  std::ranges::copy_if(names, std::back_inserter(out), could_be_weights);
  return out;
}

bool names_a_set(const std::set<std::string>& names) {
  return names.contains("W_enc_0.safetensors") ||
         names.contains("layer_0.safetensors");
}

FoundSae find_place(const std::string& name, const SaeLoadOptions& options) {
  std::error_code error;
  const auto status = fs::status(name, error);
  if (fs::is_directory(status))
    return {.path = name, .names = listed(name).files};
  if (fs::exists(status)) return {.path = name};
  const auto first = name.find('/');
  if (first == name.npos || name.find_first_of("/.~") == 0)
    fail(
        ErrorKind::environment,
        "[{}] there is no {}; name a file, a folder or a hub id with a path "
        "(org/name/folder)",
        caller,
        quoted(fs::path(name)));
  const auto second = name.find('/', first + 1);
  FoundSae out;
  out.repository = name.substr(0, second);
  if (second != name.npos) out.inside = name.substr(second + 1);
  while (out.inside.ends_with('/'))
    out.inside.pop_back();
  const auto snapshot = hub_files(
      out.repository,
      [&](const std::set<std::string>& names) {
        out.names = listed(names, out.inside).files;
        return wanted(names, out.repository, out.inside);
      },
      hub_options(options));
  out.path = out.inside.empty() ? snapshot : snapshot / out.inside;
  return out;
}

fs::path file_of(
    const FoundSae& found,
    const std::string& name,
    const SaeLoadOptions& options) {
  if (found.repository.empty() || there(found.path / name))
    return found.path / name;
  const auto inside = joined(found.inside, name);
  return hub_files(
             found.repository,
             [&](const auto&) { return std::vector{inside}; },
             hub_options(options)) /
         inside;
}

fs::path file_of_uri(const std::string& uri, const SaeLoadOptions& options) {
  constexpr std::string_view scheme = "hf://", revision = "?revision=";
  auto rest = uri.starts_with(scheme) ? uri.substr(scheme.size()) : uri;
  auto hub = hub_options(options);
  if (const auto at = rest.find(revision); at != rest.npos) {
    hub.revision = rest.substr(at + revision.size());
    rest.resize(at);
  }
  const auto first = rest.find('/');
  const auto second = first == rest.npos ? first : rest.find('/', first + 1);
  if (second == rest.npos)
    fail(
        ErrorKind::bad_data,
        "[{}] '{}' names no file of a repository; hf://org/name/file does",
        caller,
        printable(uri));
  const auto inside = rest.substr(second + 1);
  return hub_files(
             rest.substr(0, second),
             [&](const auto&) { return std::vector{inside}; },
             hub) /
         inside;
}

sae_format::Input open_place(
    const fs::path& place, const SaeLoadOptions& options) {
  std::error_code error;
  auto weights = place;
  if (fs::is_directory(place, error))
    weights = weights_in(place);
  else if (place.extension() == ".json" || place.extension() == ".yaml")
    weights = weights_in(place.parent_path());
  sae_format::Input out{
      .place = place, .weights = WeightFile::open(weights), .options = options};
  out.config_path = config_of(weights);
  if (!out.config_path.empty())
    out.config = parse_json(
        read_text(out.config_path, limits::config_bytes, caller),
        caller,
        quoted(out.config_path));
  return out;
}

}  // namespace mlxterp
