#include "mlxterp/sae/features.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/sae/module.h"
#include "sae/rows.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

std::vector<FeatureReading::Activation> largest(
    const float* acts, int d_sae, int top, int& active) {
  std::vector<FeatureReading::Activation> on;
  for (int f = 0; f < d_sae; ++f)
    if (acts[f] != 0) on.push_back({f, acts[f]});
  active = static_cast<int>(on.size());
  const auto kept = std::min(on.size(), static_cast<size_t>(top));
  std::ranges::partial_sort(
      on,
      on.begin() + static_cast<long>(kept),
      [](const auto& a, const auto& b) {
        const float x = std::abs(a.value), y = std::abs(b.value);
        return x > y || (x == y && a.feature < b.feature);
      });
  on.resize(kept);
  return on;
}

// In the order of their largest activation.
std::vector<int> features_in(const FeatureReading& reading) {
  std::map<int, float> most;
  for (const auto& position : reading.positions)
    for (const auto& [feature, value] : position.top) {
      auto& it = most[feature];
      it = std::max(it, std::abs(value));
    }
  std::vector<int> out;
  for (const auto& [feature, value] : most)
    out.push_back(feature);
  std::ranges::stable_sort(
      out, std::greater<>(), [&](int feature) { return most[feature]; });
  return out;
}

// The handle with the SAE's activations at a site, and that site's name.
struct Reader {
  InterpretableModel model;
  std::string acts;
  bool whole;  // all features, and not just those named
};

Reader reader(
    const InterpretableModel& model,
    const Sae& sae,
    const SaeSites& sites,
    const FeatureOptions& options) {
  const auto attached = fmt::format("{}.{}.acts", sites.writes, options.name);
  if (model.sites().contains(attached)) {
    const auto& site = model.sites()[model.sites().find(attached)];
    if (site.width != sae.d_sae())
      fail(
          ErrorKind::usage,
          "[sae] '{}' has {} features, the SAE {}; give the name under which "
          "it is attached",
          attached,
          site.width,
          sae.d_sae());
    return {model, attached, true};
  }
  AttachOptions attach{
      .name = options.name, .by_position = true, .reads = sites.reads};
  std::shared_ptr<nn::Module> module;
  if (options.features.empty())
    module = std::make_shared<SaeModule>(sae);
  else
    module = std::make_shared<SaeFeatures>(sae, options.features);
  return {
      model.attach(sites.writes, std::move(module), attach),
      attached,
      options.features.empty()};
}

}  // namespace

FeatureReading read_features(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompt,
    const FeatureOptions& options) {
  check(sae);
  if (options.top < 1 || options.tokens < 0)
    fail(
        ErrorKind::usage,
        "[sae] top is {} and tokens {}; give at least 1 and 0",
        options.top,
        options.tokens);
  FeatureReading out{
      .sites = sae_sites(model, sae, options.site, options.reads)};
  out.d_sae = sae.d_sae();
  const auto prompts = model.token_ids(prompt);
  if (prompts.size() != 1)
    fail(
        ErrorKind::usage,
        "[sae] features are read of one prompt at a time, not of {}",
        prompts.size());
  out.ids = prompts[0];
  const auto& named = options.features;
  for (const int feature : named)
    if (feature < 0 || feature >= sae.d_sae())
      fail(
          ErrorKind::out_of_range,
          "[sae] feature {} is out of range; there are {}, numbered from 0",
          feature,
          sae.d_sae());
  const auto from = reader(model, sae, out.sites, options);
  std::vector<std::string> save = {from.acts};
  const bool fit = named.empty() && sae.kind != SaeKind::cross_layer;
  if (fit) save.insert(save.end(), {out.sites.reads, out.sites.writes});
  const auto run = from.model.run(prompts[0], {.save = save});
  auto acts = mx::contiguous(mx::astype(
      mx::reshape(run[from.acts], {static_cast<int>(out.ids.size()), -1}),
      mx::float32));
  acts.eval();
  const int width = acts.shape(1);
  for (size_t p = 0; p < out.ids.size(); ++p) {
    const auto* row = acts.data<float>() + p * static_cast<size_t>(width);
    FeatureReading::Position position;
    if (named.empty()) {
      position.top = largest(row, width, options.top, position.active);
    } else {
      for (size_t i = 0; i < named.size(); ++i)
        position.top.push_back(
            {named[i], row[from.whole ? static_cast<size_t>(named[i]) : i]});
    }
    out.positions.push_back(std::move(position));
  }
  if (fit) {
    const auto rows = [&](const std::string& site) {
      const auto x = mx::reshape(
          mx::astype(run[site], mx::float32),
          {static_cast<int>(out.ids.size()), -1});
      const int first = x.shape(0) > 1 ? 1 : 0;
      return mx::slice(x, {first, 0}, {x.shape(0), x.shape(1)});
    };
    const auto x = rows(out.sites.reads);
    const auto own = encode(sae, x);
    SaeFitter fitter;
    fitter.add(rows(out.sites.writes), decode(sae, own, x), own);
    out.fit = fitter.fit();
  }
  if (options.tokens > 0 && reaches_logits(model, sae, out.sites))
    out.logits =
        feature_logits(model, sae, features_in(out), options.tokens, out.sites);
  return out;
}

}  // namespace mlxterp
