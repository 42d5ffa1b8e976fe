#include "sae/train/training_folder.h"

#include <fmt/ranges.h>

#include <set>
#include <system_error>

#include "core/fail.h"
#include "io/hub_cache.h"
#include "io/input_file.h"
#include "io/json.h"
#include "mlxterp/io/safetensors.h"
#include "mlxterp/sae/save.h"

namespace fs = std::filesystem;

namespace mlxterp::sae_train {

namespace {

constexpr const char* who = "train_sae";
constexpr const char* lock_name = ".lock";
constexpr const char* settings_key = "mlxterp_sae_training";
constexpr const char* progress_key = "progress";
constexpr const char* baseline_name = "baseline";

bool is_temporary(const std::string& name) {
  return name.starts_with(".mlxterp-") && name.ends_with(".tmp");
}

void remove_temporaries(const fs::path& folder) {
  std::error_code ignored;
  for (fs::directory_iterator it(folder, ignored), end; it != end;
       it.increment(ignored))
    if (is_temporary(it->path().filename().string()))
      fs::remove(it->path(), ignored);
}

void differences(
    const nlohmann::json& stored,
    const nlohmann::json& asked,
    const std::string& name,
    std::vector<std::string>& out) {
  if (stored == asked) return;
  if (!stored.is_object() || !asked.is_object()) {
    const auto shown = [](const nlohmann::json& value) {
      return printable(
          value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
    };
    out.push_back(
        fmt::format("{} {}, asked for {}", name, shown(stored), shown(asked)));
    return;
  }
  std::set<std::string> keys;
  for (const auto* object : {&stored, &asked})
    for (const auto& [key, value] : object->items())
      keys.insert(key);
  for (const auto& key : keys)
    differences(
        stored.value(key, nlohmann::json()),
        asked.value(key, nlohmann::json()),
        name.empty() ? key : fmt::format("{}.{}", name, key),
        out);
}

}  // namespace

Json to_json(const SaeTrainOptions& o) {
  Json out;
  out["recipe"] = name_of(o.recipe);
  out["features"] = o.features;
  out["k"] = o.k;
  out["widths"] = o.widths;
  out["mean_over_widths"] = o.mean_over_widths;
  out["sparsity"] = o.sparsity;
  out["penalty"] = name_of(o.penalty);
  out["tanh_scale"] = o.tanh_scale;
  out["target_l0"] = o.target_l0;
  out["bandwidth"] = o.bandwidth;
  out["threshold"] = o.threshold;
  out["pre_act"] = o.pre_act;
  out["loss"] = name_of(o.loss);
  out["aux"] = name_of(o.aux);
  out["aux_weight"] = o.aux_weight;
  out["aux_k"] = o.aux_k;
  out["dead_after"] = o.dead_after;
  out["rank_by_norm"] = o.rank_by_norm;
  out["unit_decoder"] = o.unit_decoder;
  out["decoder_norm"] = o.decoder_norm;
  out["mean_bias"] = o.mean_bias;
  out["subtract_b_dec"] = o.subtract_b_dec;
  out["scale"] = name_of(o.scale);
  out["transcoder"] = o.transcoder;
  out["skip"] = o.skip;
  out["batch_size"] = o.batch_size;
  out["tokens"] = o.tokens;
  out["learning_rate"] = o.learning_rate;
  out["beta1"] = o.beta1;
  out["beta2"] = o.beta2;
  out["epsilon"] = o.epsilon;
  out["warm_up"] = o.warm_up;
  out["decay"] = o.decay;
  out["sparsity_warm_up"] = o.sparsity_warm_up;
  out["clip"] = o.clip;
  out["seed"] = o.seed;
  return out;
}

TrainingFolder::TrainingFolder(fs::path path, bool resume)
    : path_(std::move(path)) {
  std::error_code error;
  made_ = fs::create_directories(path_, error);
  if (!fs::is_directory(path_))
    fail(
        error ? ErrorKind::environment : ErrorKind::usage,
        "[{}] {} is no folder and cannot become one{}; name another",
        who,
        quoted(path_),
        error ? fmt::format(" ({})", error.message()) : "");
  bool training = false, other = false;
  for (fs::directory_iterator it(path_, error), end; !error && it != end;
       it.increment(error)) {
    const auto name = it->path().filename().string();
    if (name == state_name)
      training = true;
    else if (name != lock_name && !is_temporary(name))
      other = true;
  }
  // What a run leaves that was killed before its first state.
  if (other && !training && resume && fs::exists(path_ / lock_name))
    other = false;
  if (training && !resume)
    fail(
        ErrorKind::usage,
        "[{}] {} holds a training; ask to resume it, or name another folder",
        who,
        quoted(path_));
  if (other && !training)
    fail(
        ErrorKind::usage,
        "[{}] {} holds other files and no training; name an empty or a new "
        "folder",
        who,
        quoted(path_));
  lock_ = std::make_shared<FileLock>(path_ / lock_name, [&] {
    fail(
        ErrorKind::environment,
        "[{}] another process trains in {}; wait for it, or name another "
        "folder",
        who,
        quoted(path_));
  });
  remove_temporaries(path_);
  remove_temporaries(path_ / baseline_name);
}

TrainingFolder::~TrainingFolder() {
  std::error_code ignored;
  fs::remove(path_ / lock_name, ignored);
  if (made_) fs::remove(path_, ignored);  // where nothing came into it
}

std::optional<FoundState> TrainingFolder::find(const Json& settings) const {
  const auto path = path_ / state_name;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return {};
  const auto file = Safetensors::open(path);
  const auto part = [&](const char* key) {
    const auto found = file.metadata().find(key);
    if (found == file.metadata().end())
      fail(
          ErrorKind::bad_data,
          "[{}] {} does not say its '{}'; it is no trainer's state, train anew "
          "into another folder",
          who,
          quoted(path),
          key);
    return parse_json(found->second, who, quoted(path));
  };
  std::vector<std::string> all;
  differences(
      part(settings_key), nlohmann::json::parse(settings.dump()), "", all);
  if (!all.empty())
    fail(
        ErrorKind::usage,
        "[{}] the training in {} has other settings: {}; give the same, or "
        "name another folder",
        who,
        quoted(path_),
        fmt::join(all, "; "));
  FoundState out;
  out.progress = part(progress_key);
  for (const auto& tensor : file.tensors())
    out.tensors.insert_or_assign(tensor.name, file.read(tensor));
  return out;
}

void TrainingFolder::save(
    const Sae& sae,
    const std::optional<Sae>& baseline,
    const SaeTrainer::Tensors& state,
    const Json& settings,
    const Json& progress) const {
  try {
    save_saelens(sae, path_, /*overwrite=*/true);
    if (baseline)
      save_saelens(*baseline, path_ / baseline_name, /*overwrite=*/true);
    save_safetensors(
        path_ / state_name,
        {state.begin(), state.end()},
        {{settings_key, settings.dump()}, {progress_key, progress.dump()}},
        /*overwrite=*/true);
  } catch (const Error& error) {
    fail(
        error.kind(),
        "{}; what stood in the folder is whole, and resuming goes on there",
        error.what());
  }
}

}  // namespace mlxterp::sae_train
