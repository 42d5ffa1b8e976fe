#include "sae/place.h"

#include <algorithm>
#include <set>
#include <vector>

#include "io/input_file.h"
#include "io/json.h"
#include "mlxterp/core/limits.h"

namespace fs = std::filesystem;

namespace mlxterp {

namespace {

using sae_format::caller;

// What weights are called in a folder of one SAE, in the order of looking.
constexpr const char* weight_names[] = {
    "sae_weights.safetensors",
    "sae.safetensors",
    "params.safetensors",
    "params.npz",
    "ae.pt",
    "checkpoints/final.safetensors",
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

bool could_be_weights(const fs::path& path) {
  const auto name = path.filename().string();
  return std::ranges::find(suffixes, path.extension().string()) !=
             std::end(suffixes) &&
         std::ranges::find(not_weights, name) == std::end(not_weights);
}

struct Listing {
  std::vector<fs::path> weights;
  std::set<std::string> folders, files;
};

Listing listed(const fs::path& folder) {
  Listing out;
  std::error_code error;
  fs::directory_iterator at(folder, error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    const auto name = at->path().filename().string();
    std::error_code ignored;
    if (at->is_directory(ignored)) {
      out.folders.insert(name);
    } else {
      out.files.insert(name);
      if (could_be_weights(at->path())) out.weights.push_back(at->path());
    }
  }
  if (error)
    fail(
        ErrorKind::environment,
        "[{}] {} cannot be listed ({}); check its permissions",
        caller,
        quoted(folder),
        error.message());
  std::ranges::sort(out.weights);
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

fs::path weights_in(const fs::path& folder) {
  for (const char* name : weight_names)
    if (there(folder / name)) return folder / name;
  const auto listing = listed(folder);
  if (listing.weights.size() == 1) return listing.weights[0];
  if (listing.weights.size() > 1) {
    std::set<std::string> names;
    for (const auto& path : listing.weights)
      names.insert(path.filename().string());
    fail(
        ErrorKind::bad_data,
        "[{}] {} holds several files of weights; name one: {}",
        caller,
        quoted(folder),
        some(names));
  }
  fail(
      ErrorKind::bad_data,
      "[{}] {} holds no SAE; {}",
      caller,
      quoted(folder),
      listing.folders.empty()
          ? "name the folder or the file of one (" +
                (listing.files.empty() ? std::string("it is empty")
                                       : some(listing.files)) +
                ")"
          : "name one of its folders: " + some(listing.folders));
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

}  // namespace

sae_format::Input open_place(
    const fs::path& place, const SaeLoadOptions& options) {
  std::error_code error;
  const auto status = fs::status(place, error);
  if (!fs::exists(status))
    fail(
        ErrorKind::environment,
        "[{}] there is no {}; name a file, a folder or a hub id with a path "
        "(org/name/folder)",
        caller,
        quoted(place));
  auto weights = place;
  if (fs::is_directory(status))
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
