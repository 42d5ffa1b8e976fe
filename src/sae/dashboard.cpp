#include "mlxterp/sae/dashboard.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <set>

#include "analysis/any_model.h"
#include "analysis/random.h"
#include "analysis/store/windows.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/collect.h"
#include "mlxterp/sae/module.h"
#include "sae/feature_examples.h"
#include "sae/neighbours.h"
#include "sae/rows.h"

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr const char* attached_as = "dashboard_features";
// Numbers of a block's activations, and of all examples together.
constexpr size_t block_numbers = size_t{1} << 24;
constexpr double example_numbers = double{1 << 28};
constexpr int most_bins = 1000;

void check_options(const DashboardOptions& o) {
  const auto range = [](const char* name, int value, int least, int most) {
    if (value < least || value > most)
      fail(
          ErrorKind::usage,
          "[sae] {} is {}; give {} to {}",
          name,
          value,
          least,
          most);
  };
  constexpr int many = 1 << 20;
  range("top", o.top, 1, many);
  range("intervals", o.intervals, 1, most_bins);
  range("per_interval", o.per_interval, 0, many);
  range("before", o.before, 0, many);
  range("after", o.after, 0, many);
  range("bins", o.bins, 1, most_bins);
  range("tokens_shown", o.tokens_shown, 0, many);
  range("neighbours", o.neighbours, 0, many);
  range("batch_size", o.batch_size, 1, many);
  if (o.tokens < 0)
    fail(
        ErrorKind::usage,
        "[sae] tokens is {}; give 0 for the whole text",
        o.tokens);
  const std::set<int> once(o.features.begin(), o.features.end());
  if (once.size() != o.features.size())
    fail(
        ErrorKind::usage,
        "[sae] {} features are named, {} of them different; name each once",
        o.features.size(),
        once.size());
  const double examples = o.top + double(o.intervals) * o.per_interval;
  const double numbers = static_cast<double>(o.features.size()) * examples *
                         (double(o.before) + o.after + 1);
  if (numbers > example_numbers)
    fail(
        ErrorKind::usage,
        "[sae] {} features with up to {:.0f} examples of {} tokens are more "
        "than memory shall hold; take some features at a time, or fewer "
        "examples",
        o.features.size(),
        examples,
        o.before + o.after + 1);
}

// Equal bins from the smallest logit to the largest.
FeatureHistogram histogram(std::span<const float> values, int bins) {
  const auto [least, most] = std::ranges::minmax(values);
  const double range = static_cast<double>(most) - least;
  FeatureHistogram out{.from = least, .width = range / bins};
  out.counts.resize(static_cast<size_t>(bins));
  for (const float value : values) {
    const double at = range > 0 ? (value - out.from) / out.width : 0;
    ++out.counts[static_cast<size_t>(
        std::clamp(std::ceil(at) - 1, 0.0, static_cast<double>(bins - 1)))];
  }
  return out;
}

using NextWindow = std::function<std::optional<Window>()>;

class Gatherer {
 public:
  Gatherer(
      const InterpretableModel& model,
      const Sae& sae,
      const DashboardOptions& options)
      : model_(model), sae_(sae), options_(options) {
    check(sae);
    check_options(options);
    out_.sites = sae_sites(model, sae, options.site, options.reads);
    out_.d_sae = sae.d_sae();
    out_.seed = options.seed;
    module_ = std::make_shared<SaeFeatures>(sae, options.features);
    for (size_t i = 0; i < options.features.size(); ++i)
      examples_.emplace_back(options.features[i], i, options);
    if (options.neighbours == 0) return;
    if (options.features.size() <= most_correlated_features)
      correlations_.emplace(options.features.size());
    else if (options.warn)
      options.warn(fmt::format(
          "correlations are taken among at most {} features, and not among "
          "these {}",
          most_correlated_features,
          options.features.size()));
  }

  // `share`: of the text that was read.
  FeatureDashboards run(
      int length,
      const NextWindow& next,
      const std::function<double()>& share) {
    out_.length = length;
    const auto reading = model_.attach(
        out_.sites.writes,
        module_,
        {.name = attached_as, .by_position = true, .reads = out_.sites.reads});
    const auto site = fmt::format("{}.{}.acts", out_.sites.writes, attached_as);
    const auto window_numbers =
        static_cast<size_t>(length) * options_.features.size();
    const auto at_once = std::max<size_t>(
        1, block_numbers / std::max<size_t>(1, window_numbers));
    const auto batch =
        std::min(static_cast<size_t>(options_.batch_size), at_once);
    // Several batches, which are sorted by length.
    const auto most = std::min(at_once, 4 * batch);
    for (bool more = true; more;) {
      std::vector<Window> block;
      Inputs::Rows prompts;
      while (more && block.size() < most) {
        auto window = next();
        more = window.has_value();
        if (!window) break;
        if (window->ids.size() < 2) continue;
        prompts.push_back(window->ids);
        block.push_back(std::move(*window));
      }
      if (block.empty()) break;
      const auto run = collect_activations(
          reading, prompts, {site}, {.batch_size = static_cast<int>(batch)});
      auto acts = mx::contiguous(mx::astype(run[site], mx::float32));
      acts.eval();
      const auto* row = acts.data<float>();
      for (const auto& window : block) {
        add(window, row);
        row += window.ids.size() * options_.features.size();
      }
      if (options_.progress) options_.progress("Reading the text", share());
    }
    if (out_.windows == 0)
      fail(
          ErrorKind::usage,
          "[sae] the text is too short: no window of it has two tokens");
    if (options_.progress) options_.progress("Reading the text", 1.0);
    finish();
    return std::move(out_);
  }

 private:
  void add(const Window& window, const float* acts) {
    const auto n = options_.features.size();
    const WindowActs from{
        .ids = window.ids,
        .acts = acts,
        .features = n,
        .document = window.document,
        .window = out_.windows};
    std::vector<std::pair<size_t, float>> active;
    for (size_t p = 1; p < window.ids.size(); ++p) {
      active.clear();
      for (size_t f = 0; f < n; ++f) {
        const float x = acts[p * n + f];
        if (x == 0) continue;
        if (!std::isfinite(x))
          fail(
              ErrorKind::bad_data,
              "[sae] feature {} is {} at position {} of window {}",
              options_.features[f],
              x,
              p,
              out_.windows);
        examples_[f].add(from, p, x);
        active.emplace_back(f, x);
      }
      if (correlations_) correlations_->add(active);
    }
    for (auto& examples : examples_)
      examples.end_window(from);
    ++out_.windows;
    out_.tokens += static_cast<int64_t>(window.ids.size()) - 1;
  }

  void finish() {
    for (auto& examples : examples_)
      out_.features.push_back(examples.take());
    if (options_.progress) options_.progress("Comparing features", 0.0);
    const auto similar =
        similar_features(sae_, options_.features, options_.neighbours);
    for (size_t i = 0; i < out_.features.size(); ++i) {
      out_.features[i].similar = similar[i];
      if (correlations_)
        out_.features[i].correlated =
            correlations_->of(i, options_.features, options_.neighbours);
    }
    if (options_.tokens_shown == 0 || !reaches_logits(model_, sae_, out_.sites))
      return;
    size_t i = 0;
    for_each_logits(
        model_,
        sae_,
        options_.features,
        out_.sites,
        [&](int feature, std::span<const float> logits) {
          auto& of = out_.features[i++];
          auto found = furthest_logits(feature, logits, options_.tokens_shown);
          of.promoted = std::move(found.promoted);
          of.suppressed = std::move(found.suppressed);
          of.logits = histogram(logits, options_.bins);
          if (options_.progress)
            options_.progress(
                "Logits",
                static_cast<double>(i) /
                    static_cast<double>(out_.features.size()));
        });
  }

  const InterpretableModel& model_;
  const Sae& sae_;
  const DashboardOptions& options_;
  FeatureDashboards out_;
  std::shared_ptr<SaeFeatures> module_;
  std::vector<FeatureExamples> examples_;
  std::optional<Correlations> correlations_;
};

}  // namespace

FeatureDashboards feature_dashboards_of_text(
    const InterpretableModel& model,
    const Sae& sae,
    const fs::path& text,
    const DashboardOptions& options) {
  Gatherer gatherer(model, sae, options);
  const int context = context_length(model);
  if (options.length < 2 || options.length > context)
    fail(
        ErrorKind::usage,
        "[sae] windows of {} tokens; give 2 to {}, the model's context",
        options.length,
        context);
  TextFiles files(text, options.warn);
  Windows windows(
      documents_of(model, files),
      {.length = options.length,
       .bos = first_token_of(model),
       .tokens = options.tokens},
      {});
  return gatherer.run(
      options.length,
      [&] { return windows.next(); },
      [&] { return files.share(windows.place().document); });
}

FeatureDashboards feature_dashboards(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompts,
    const DashboardOptions& options) {
  Gatherer gatherer(model, sae, options);
  const auto rows = model.token_ids(prompts);
  size_t longest = 1, at = 0;
  for (const auto& row : rows)
    longest = std::max(longest, row.size());
  int64_t tokens = 0;
  return gatherer.run(
      static_cast<int>(longest),
      [&]() -> std::optional<Window> {
        if (at == rows.size()) return {};
        if (options.tokens > 0 && tokens >= options.tokens) return {};
        tokens += static_cast<int64_t>(rows[at].size());
        const auto i = at++;
        return Window{.ids = rows[i], .document = static_cast<int>(i)};
      },
      [&] {
        return static_cast<double>(at) / static_cast<double>(rows.size());
      });
}

std::vector<int> random_features(const Sae& sae, int n, uint64_t seed) {
  if (n < 1)
    fail(ErrorKind::usage, "[sae] {} random features; give 1 at least", n);
  std::vector<int> all(static_cast<size_t>(sae.d_sae()));
  for (size_t i = 0; i < all.size(); ++i)
    all[i] = static_cast<int>(i);
  if (static_cast<size_t>(n) >= all.size()) return all;
  Random random(seed);
  random.shuffle(all, static_cast<size_t>(n));
  all.resize(static_cast<size_t>(n));
  std::ranges::sort(all);
  return all;
}

}  // namespace mlxterp
