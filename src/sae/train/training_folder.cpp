#include "sae/train/training_folder.h"

#include <fmt/ranges.h>

#include <system_error>
#include <vector>

#include "core/fail.h"
#include "io/input_file.h"
#include "io/json.h"
#include "mlxterp/io/safetensors.h"

namespace fs = std::filesystem;

namespace mlxterp::sae_train {

namespace {

constexpr const char* who = "train_sae";
constexpr const char* settings_key = "mlxterp_sae_training";
constexpr const char* progress_key = "progress";
constexpr const char* baseline_name = "baseline";

// Whether a checkpoint writes an entry of this name.
bool is_part(const std::string& name) {
  return name == "cfg.json" || name == "sae_weights.safetensors" ||
         name == "config.yaml" || name == "next" || name == baseline_name ||
         ((name.starts_with("W_enc_") || name.starts_with("W_dec_")) &&
          name.ends_with(".safetensors"));
}

// What a first checkpoint left that found no room: without a state beside it a
// later run would take it for somebody else's.
void remove_parts(const fs::path& folder) {
  std::error_code ignored;
  std::vector<fs::path> parts;
  for (fs::directory_iterator it(folder, ignored), end; it != end;
       it.increment(ignored))
    if (is_part(it->path().filename().string())) parts.push_back(it->path());
  for (const auto& part : parts)
    fs::remove_all(part, ignored);
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
  if (o.layers > 0) out["layers"] = o.layers;
  if (o.blocks > 0) out["blocks"] = o.blocks;
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
  if (o.bfloat16) out["bfloat16"] = true;
  out["seed"] = o.seed;
  return out;
}

TrainingFolder::TrainingFolder(const fs::path& path, bool resume)
    : folder_(
          path,
          {.caller = who,
           .what = "training",
           // Without a state: what a run leaves that was killed before its
           // first.
           .entry =
               [left = resume && ResumableFolder::was_held(path)](
                   const std::string& name) {
                 using enum ResumableFolder::Entry;
                 if (name == state_name) return own;
                 return left ? part : foreign;
               }},
          resume) {
  remove_temporaries(folder_.path() / baseline_name);
}

std::optional<FoundState> TrainingFolder::find(const Json& settings) const {
  const auto path = folder_.path() / state_name;
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
  const auto all = differing_settings(
      part(settings_key), nlohmann::json::parse(settings.dump()));
  if (!all.empty())
    fail(
        ErrorKind::usage,
        "[{}] the training in {} has other settings: {}; give the same, or "
        "name another folder",
        who,
        quoted(folder_.path()),
        fmt::join(all, "; "));
  FoundState out;
  out.progress = part(progress_key);
  for (const auto& tensor : file.tensors())
    out.tensors.insert_or_assign(tensor.name, file.read(tensor));
  return out;
}

void TrainingFolder::save(
    const std::function<void(const fs::path&)>& write,
    const std::function<void(const fs::path&)>& write_baseline,
    const SaeTrainer::Tensors& state,
    const Json& settings,
    const Json& progress) const {
  try {
    write(folder_.path());
    if (write_baseline) write_baseline(folder_.path() / baseline_name);
    save_safetensors(
        folder_.path() / state_name,
        {state.begin(), state.end()},
        {{settings_key, settings.dump()}, {progress_key, progress.dump()}},
        /*overwrite=*/true);
  } catch (const Error& error) {
    std::error_code ignored;
    if (!fs::exists(folder_.path() / state_name, ignored))
      remove_parts(folder_.path());
    fail(
        error.kind(),
        "{}; what stood in the folder is whole, and resuming goes on there",
        error.what());
  }
}

}  // namespace mlxterp::sae_train
