#include <algorithm>
#include <cmath>
#include <memory>

#include "analysis/any_model.h"
#include "analysis/store/windows.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/analysis/collect.h"
#include "mlxterp/sae/features.h"
#include "mlxterp/sae/module.h"

namespace fs = std::filesystem;
namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr const char* attached_as = "some_features";
constexpr size_t batches = 4;  // of a block, which is sorted by length

// The best contexts of each feature so far.
class Best {
 public:
  explicit Best(const FeatureContextOptions& options) : options_(options) {
    for (const int feature : options.features)
      out_.push_back({.feature = feature});
  }

  // `acts` [pos, feature] of a window.
  void add(const Window& window, const float* acts) {
    const auto n = window.ids.size();
    const size_t first = n > 1 ? 1 : 0;
    for (size_t f = 0; f < out_.size(); ++f) {
      size_t at = first;
      float most = 0;
      for (size_t p = first; p < n; ++p) {
        const float x = acts[p * out_.size() + f];
        if (x != 0) ++out_[f].active;
        if (std::abs(x) <= std::abs(most)) continue;
        most = x;
        at = p;
      }
      if (most != 0) offer(out_[f], window, at, most);
    }
  }

  std::vector<FeatureContexts> take() { return std::move(out_); }

 private:
  void offer(
      FeatureContexts& of, const Window& window, size_t at, float value) const {
    const auto most = static_cast<size_t>(options_.top);
    if (of.top.size() == most &&
        std::abs(of.top.back().value) >= std::abs(value))
      return;
    const auto before = static_cast<size_t>(options_.before);
    const auto begin = at > before ? at - before : 0;
    const auto end = std::min(
        window.ids.size(), at + static_cast<size_t>(options_.after) + 1);
    FeatureContexts::Context context{
        .value = value,
        .ids =
            {window.ids.begin() + static_cast<long>(begin),
             window.ids.begin() + static_cast<long>(end)},
        .at = static_cast<int>(at - begin),
        .document = window.document,
        .position = static_cast<int64_t>(at)};
    // Behind those as large: the earlier one in the text comes first.
    const auto place = std::ranges::find_if(of.top, [&](const auto& other) {
      return std::abs(other.value) < std::abs(value);
    });
    of.top.insert(place, std::move(context));
    if (of.top.size() > most) of.top.pop_back();
  }

  const FeatureContextOptions& options_;
  std::vector<FeatureContexts> out_;
};

void check(const FeatureContextOptions& o, int context) {
  if (o.top < 1 || o.before < 0 || o.after < 0 || o.batch_size < 1 ||
      o.tokens < 0)
    fail(
        ErrorKind::usage,
        "[sae] top {}, before {}, after {}, batch_size {}, tokens {}: top and "
        "batch_size are at least 1, the others at least 0",
        o.top,
        o.before,
        o.after,
        o.batch_size,
        o.tokens);
  if (o.length < 2 || o.length > context)
    fail(
        ErrorKind::usage,
        "[sae] windows of {} tokens; give 2 to {}, the model's context",
        o.length,
        context);
}

}  // namespace

FeatureText feature_contexts(
    const InterpretableModel& model,
    const Sae& sae,
    const fs::path& text,
    const FeatureContextOptions& options) {
  mlxterp::check(sae);
  check(options, context_length(model));
  const auto sites = sae_sites(model, sae, options.site, options.reads);
  const auto reading = model.attach(
      sites.writes,
      std::make_shared<SaeFeatures>(sae, options.features),
      {.name = attached_as, .by_position = true, .reads = sites.reads});
  const auto acts_site = fmt::format("{}.{}.acts", sites.writes, attached_as);
  TextFiles files(text, options.warn);
  Windows windows(
      documents_of(model, files),
      {.length = options.length,
       .bos = first_token_of(model),
       .tokens = options.tokens},
      {});
  Best best(options);
  FeatureText out;
  const auto most = batches * static_cast<size_t>(options.batch_size);
  for (bool more = true; more;) {
    std::vector<Window> block;
    Inputs::Rows prompts;
    while (more && block.size() < most) {
      auto window = windows.next();
      more = window.has_value();
      if (!window) break;
      prompts.push_back(window->ids);
      block.push_back(std::move(*window));
    }
    if (block.empty()) break;
    const auto run = collect_activations(
        reading, prompts, {acts_site}, {.batch_size = options.batch_size});
    auto acts = mx::contiguous(mx::astype(run[acts_site], mx::float32));
    acts.eval();
    const auto* row = acts.data<float>();
    for (const auto& window : block) {
      best.add(window, row);
      ++out.windows;
      row += window.ids.size() * options.features.size();
      const auto n = static_cast<int64_t>(window.ids.size());
      out.tokens += n > 1 ? n - 1 : n;
    }
    if (options.progress)
      options.progress(
          "Reading the text", files.share(windows.place().document));
  }
  if (out.windows == 0)
    fail(ErrorKind::usage, "[sae] the text holds no tokens to read");
  if (options.progress) options.progress("Reading the text", 1.0);
  out.features = best.take();
  return out;
}

}  // namespace mlxterp
