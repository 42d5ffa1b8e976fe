// A training from beginning to end.

#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>

#include "analysis/row_sites.h"
#include "core/fail.h"
#include "core/machine.h"
#include "io/json.h"
#include "mlx/ops.h"
#include "mlxterp/core/blas.h"
#include "mlxterp/sae/train_run.h"
#include "sae/hooks.h"
#include "sae/train/rows.h"
#include "sae/train/trainee.h"
#include "sae/train/training_folder.h"

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace mlxterp {

using namespace sae_train;  // NOLINT(google-build-using-namespace): its parts

namespace {

constexpr const char* who = "train_sae";
constexpr const char* baseline_prefix = "baseline.";

Json to_json(const SaeTrained& it) {
  Json out = {
      {"rows", it.fit.rows},
      {"explained_variance", it.fit.explained_variance},
      {"l0", it.fit.l0},
      {"dead_share", it.dead_share}};
  for (const auto& fit : it.layers)
    out["layers"].push_back(
        {{"explained_variance", fit.explained_variance}, {"l0", fit.l0}});
  return out;
}

SaeFit fit_of(const nlohmann::json& json, size_t rows) {
  SaeFit out;
  out.rows = rows;
  out.explained_variance = number_in(json, "explained_variance");
  out.fvu = 1 - out.explained_variance;
  out.l0 = number_in(json, "l0");
  return out;
}

SaeTrained trained_of(const nlohmann::json& json) {
  SaeTrained out;
  const auto rows = static_cast<size_t>(count_in(json, "rows"));
  out.fit = fit_of(json, rows);
  out.dead_share = number_in(json, "dead_share");
  if (json.contains("layers"))
    for (const auto& layer : json["layers"])
      out.layers.push_back(fit_of(layer, rows));
  return out;
}

class Training {
 public:
  Training(
      RowSource& source, const fs::path& folder, const SaeRunOptions& options)
      : source_(source),
        options_(options),
        folder_(folder, options.resume),
        d_in_(source.d_in() * std::max(options.train.blocks, 1)),
        d_out_(source.d_out() * std::max(options.train.blocks, 1)),
        train_(checked(options.train, d_in_, d_out_)) {
    settings_["format"] = "mlxterp-sae-training-1";
    settings_["model"] = options.model;
    settings_["site"] = options.site;
    settings_["site_out"] = options.site_out;
    if (!options.layers.empty()) settings_["layers"] = options.layers;
    settings_["d_in"] = d_in_;
    settings_["d_out"] = d_out_;
    settings_["rows"] = source.facts();
    settings_["longest"] = options.longest;
    settings_["buffer_rows"] = options.buffer_rows;
    settings_["baseline"] = options.baseline;
    settings_["options"] = sae_train::to_json(train_);
  }

  SaeRunSummary run() {
    const auto found = folder_.find(settings_);
    begin(found);
    bool stopped = false;
    while (!done() && !stopped) {
      step();
      const bool late = seconds_since(saved_) >= options_.checkpoint_seconds;
      stopped = options_.stop && options_.stop();
      if (!done() && (late || stopped)) save();
    }
    if (done() && !complete_) finish();
    return summary();
  }

 private:
  using Clock = std::chrono::steady_clock;

  static double seconds_since(Clock::time_point at) {
    return std::chrono::duration<double>(Clock::now() - at).count();
  }

  bool done() const { return trainer_->steps() >= train_.steps(); }

  SaeTrainOptions of_baseline() const {
    auto out = train_;
    out.recipe = SaeRecipe::topk;
    out.aux = sae_preset("saelens", SaeRecipe::topk).aux;
    out.subtract_b_dec = out.blocks == 0;
    return out;
  }

  void begin(const std::optional<FoundState>& found) {
    // Of a resumed one everything comes from the state, and how many threads
    // add up: however busy the machine was then and is now.
    if (found && found->progress.contains("threads"))
      set_blas_threads(static_cast<int>(std::min<int64_t>(
          count_in(found->progress, "threads"),
          static_cast<int64_t>(usable_cores()))));
    const auto at = Clock::now();
    const auto first = [&]() -> Rows {
      if (!found) return source_.sample();
      const int layers = std::max(train_.layers, 1);
      Rows out{mx::ones({1, layers * d_in_}, mx::float32)};
      if (train_.transcoder) out.y = mx::ones({1, layers * d_out_});
      return out;
    }();
    model_seconds_ += seconds_since(at);
    trainer_ = trainee_of(train_, options_, first);
    if (options_.baseline)
      baseline_ = trainee_of(of_baseline(), options_, first);
    if (!found) return;
    trainer_->restore(found->tensors);
    if (baseline_) {
      SaeTrainer::Tensors own;
      for (const auto& [name, value] : found->tensors)
        if (name.starts_with(baseline_prefix))
          own.insert_or_assign(
              name.substr(std::string_view(baseline_prefix).size()), value);
      baseline_->restore(own);
    }
    kept_ = trainer_->steps();
    complete_ = found->progress.contains("trained");
    if (complete_) {
      trained_ = trained_of(found->progress["trained"]);
      if (baseline_) of_baseline_ = trained_of(found->progress["baseline"]);
    } else {
      tell("Going back to where it was");
      source_.go_to(found->progress.value("place", nlohmann::json()));
    }
  }

  void step() {
    const auto begin = Clock::now();
    const auto rows = source_.next();
    model_seconds_ += seconds_since(begin);
    last_ = trainer_->step(rows);
    if (baseline_) baseline_->step(rows);
    if (options_.on_step) options_.on_step(trainer_->steps() - 1, *last_);
    tell(fmt::format(
        "Loss {:.4g}, EV {:.3f}, L0 {:.4g}, dead {:.1f} %, {:.0f} tokens/s",
        last_->loss,
        last_->explained,
        last_->l0,
        1e2 * last_->dead_share,
        rate()));
  }

  int64_t rows_now() const {
    return (trainer_->steps() - kept_) * train_.batch_size;
  }

  double rate() const {
    return static_cast<double>(rows_now()) / seconds_since(begin_);
  }

  void tell(std::string_view what) const {
    if (options_.progress)
      options_.progress(
          what,
          static_cast<double>(trainer_->steps()) /
              static_cast<double>(train_.steps()));
  }

  static std::function<void(const fs::path&)> writer_of(
      const Trainee& it, const std::optional<SaeTrained>& trained) {
    const auto l0 = trained ? std::optional(trained->fit.l0) : std::nullopt;
    return
        [l0, what = &it](const fs::path& folder) { what->write(folder, l0); };
  }

  void save() {
    auto state = trainer_->state();
    std::function<void(const fs::path&)> write_baseline;
    if (baseline_) {
      write_baseline = writer_of(*baseline_, of_baseline_);
      for (const auto& [name, value] : baseline_->state())
        state.insert_or_assign(baseline_prefix + name, value);
    }
    Json progress;
    progress["steps"] = trainer_->steps();
    progress["place"] = source_.place();
    progress["threads"] = blas_threads();
    if (trained_) progress["trained"] = to_json(*trained_);
    if (of_baseline_) progress["baseline"] = to_json(*of_baseline_);
    folder_.save(
        writer_of(*trainer_, trained_),
        write_baseline,
        state,
        settings_,
        progress);
    saved_ = Clock::now();
  }

  void finish() {
    tell("Measuring what was trained");
    const auto rows = source_.sample();
    trained_ = trainer_->measured(rows);
    if (baseline_) of_baseline_ = baseline_->measured(rows);
    complete_ = true;
    save();
  }

  SaeRunSummary summary() const {
    SaeRunSummary out;
    out.complete = complete_;
    out.steps = trainer_->steps();
    out.kept = kept_;
    out.rows = out.steps * train_.batch_size;
    out.left_out = source_.left_out();
    out.d_in = d_in_;
    out.d_out = d_out_;
    out.options = train_;
    out.site = options_.site;
    out.site_out = options_.site_out;
    out.layers = options_.layers;
    out.last = last_;
    out.trained = trained_;
    out.baseline = of_baseline_;
    out.times = trainer_->times();
    out.seconds = seconds_since(begin_);
    out.rows_per_second = rate();
    out.model_seconds = model_seconds_;
    return out;
  }

  RowSource& source_;
  const SaeRunOptions& options_;
  TrainingFolder folder_;
  int d_in_, d_out_;
  SaeTrainOptions train_;
  Json settings_;
  std::unique_ptr<Trainee> trainer_, baseline_;
  std::optional<SaeStep> last_;
  std::optional<SaeTrained> trained_, of_baseline_;
  bool complete_ = false;
  int64_t kept_ = 0;
  double model_seconds_ = 0;
  Clock::time_point begin_ = Clock::now(), saved_ = begin_;
};

void check_layers(const SaeRunOptions& options) {
  const auto& layers = options.layers;
  bool fits = layers.size() >= 2;
  for (size_t i = 0; i < layers.size(); ++i)
    fits &= options.crosscoder
                ? layers[i] >= 0 && (i == 0 || layers[i] > layers[i - 1])
                : layers[i] == static_cast<int>(i);
  if (!fits && options.crosscoder)
    fail(
        ErrorKind::usage,
        "[{}] the layers {} of a crosscoder; give two or more that ascend from "
        "0: of one layer train an SAE",
        who,
        fmt::join(layers, ", "));
  if (!fits)
    fail(
        ErrorKind::usage,
        "[{}] the layers {} of a cross-layer transcoder; give two or more, 0, "
        "1, 2 and so on, as circuit-tracer's files number them: of one layer "
        "train a transcoder",
        who,
        fmt::join(layers, ", "));
}

// What layers there are together, and their sites.
void fill_layers(SaeRunOptions& options) {
  const auto& layers = options.layers;
  const auto n = static_cast<int>(layers.size());
  options.train.layers = options.crosscoder ? 0 : n;
  options.train.blocks = options.crosscoder ? n : 0;
  if (options.crosscoder || n > 0) check_layers(options);
  if (n == 0) return;
  if (options.site.empty())
    options.site = options.crosscoder ? "resid_post" : "resid_mid";
  if (options.site_out.empty() && !options.crosscoder)
    options.site_out = "mlp_out";
  for (const auto& site : {options.site, options.site_out})
    if (site.find_first_of("*{,") != site.npos || layer_of_site(site) >= 0)
      fail(
          ErrorKind::usage,
          "[{}] '{}' is no site within a layer; layers trained together have "
          "the same of each, such as resid_mid, mlp.input and mlp_out",
          who,
          printable(site));
}

void check(const SaeRunOptions& options) {
  const auto& train = options.train;
  if (train.transcoder == options.site_out.empty())
    fail(
        ErrorKind::usage,
        "[{}] {}",
        who,
        train.transcoder
            ? "a transcoder needs the site that it predicts"
            : "a site to predict is given, and this is no transcoder; ask for "
              "one, or leave the site out");
  if (train.transcoder && train.layers == 0 && train.recipe == SaeRecipe::topk)
    fail(
        ErrorKind::usage,
        "[{}] no tool reads a transcoder of topk from SAELens' files; train "
        "batch_topk, whose threshold takes its place",
        who);
  if (options.baseline && (train.transcoder || train.recipe == SaeRecipe::topk))
    fail(
        ErrorKind::usage,
        "[{}] the baseline is a topk SAE; what is trained is {}",
        who,
        train.layers > 0   ? "a cross-layer transcoder"
        : train.transcoder ? "a transcoder"
                           : "one itself");
  if (!(options.longest >= 0) || !(options.checkpoint_seconds >= 0) ||
      options.buffer_rows < 0 || options.batch_size < 1 || options.length < 0)
    fail(
        ErrorKind::usage,
        "[{}] longest {}, checkpoint_seconds {}, buffer_rows {}, batch_size "
        "{}, length {}; give no negative numbers, and at least one prompt",
        who,
        options.longest,
        options.checkpoint_seconds,
        options.buffer_rows,
        options.batch_size,
        options.length);
  constexpr int64_t most_buffer = int64_t{1} << 31;
  if (options.buffer_rows > most_buffer)
    fail(
        ErrorKind::usage,
        "[{}] a buffer of {} rows; give at most {}",
        who,
        options.buffer_rows,
        most_buffer);
}

}  // namespace

SaeRunSummary train_sae(
    const ActivationStore& store,
    const fs::path& folder,
    const SaeRunOptions& given) {
  auto options = given;
  fill_layers(options);
  check(options);
  if (options.site.empty()) {
    std::vector<std::string> sites;
    for (const auto& tensor : store.tensors())
      if (mx::issubdtype(tensor.dtype, mx::floating))
        sites.push_back(tensor.name);
    if (sites.size() != 1)
      fail(
          ErrorKind::usage,
          "[{}] the store has {} sites; name the one to train on",
          who,
          sites.size());
    options.site = sites.front();
  }
  if (options.model.empty()) {
    const auto manifest =
        parse_json(store.manifest(), who, "the store's manifest");
    options.model = manifest.value("model", "");
  }
  if (options.train.tokens == 0) options.train.tokens = store.rows();
  const auto source = rows_of_store(store, options);
  return Training(*source, folder, options).run();
}

SaeRunSummary train_sae(
    const InterpretableModel& model,
    const fs::path& text,
    const fs::path& folder,
    const SaeRunOptions& given) {
  auto options = given;
  fill_layers(options);
  check(options);
  if (options.train.tokens < 1)
    fail(
        ErrorKind::usage,
        "[{}] give how many tokens to train on: rates fall over the last of "
        "them",
        who);
  const auto only = [&](const std::string& name) {
    const auto sites = row_sites(model, {name}, who);
    if (sites.size() != 1)
      fail(
          ErrorKind::usage,
          "[{}] '{}' means {} sites; name one",
          who,
          printable(name),
          sites.size());
    return model.sites()[sites.front()].name;
  };
  if (options.layers.empty()) {
    options.site = only(options.site);
    if (!options.site_out.empty()) options.site_out = only(options.site_out);
  }
  for (const auto& name : sites_of(options))
    (void)only(name);
  const auto source = rows_of_text(model, text, options);
  return Training(*source, folder, options).run();
}

}  // namespace mlxterp
