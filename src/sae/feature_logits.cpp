#include <algorithm>
#include <cmath>

#include "analysis/any_model.h"
#include "analysis/fingerprint.h"
#include "analysis/logit_direction.h"
#include "analysis/readout.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/sae/features.h"
#include "sae/rows.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Rows of the residual stream behind the final norm, but for its divisor.
mx::array through_gain(const Decoder& decoder, mx::array rows) {
  const auto& config = decoder.config().norm;
  if (config.kind == nn::NormConfig::Kind::layer)
    rows = mx::subtract(rows, mx::mean(rows, -1, true));
  auto gain = mx::astype(decoder.ln_final.weight, mx::float32);
  if (config.plus_one) gain = mx::add(gain, mx::array(1.0f));
  return mx::multiply(rows, gain);
}

constexpr std::string_view added_sites[] = {
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"};

}  // namespace

bool reaches_logits(
    const InterpretableModel& model, const Sae& sae, const SaeSites& sites) {
  const auto* decoder = decoder_of(model);
  if (!decoder || sae.kind == SaeKind::cross_layer) return false;
  const auto& site = model.sites()[model.sites().find(sites.writes)];
  if (site.layer < 0) return false;
  const auto part = site.relative();
  if (part == "attn.z")
    return decoder->layers[static_cast<size_t>(site.layer)]->attention() !=
           nullptr;
  return std::ranges::find(added_sites, part) != std::end(added_sites);
}

void need_logits(
    const InterpretableModel& model, const Sae& sae, const SaeSites& sites) {
  if (reaches_logits(model, sae, sites)) return;
  fail(
      ErrorKind::usage,
      "[sae] what is written to '{}' is no part of the residual stream by "
      "itself, so its features have no logits; they have at {} and attn.z",
      sites.writes,
      fmt::join(added_sites, ", "));
}

mx::array in_stream(
    const InterpretableModel& model,
    const SaeSites& sites,
    const mx::array& rows) {
  const auto& decoder = model.decoder();
  const auto& site = model.sites()[model.sites().find(sites.writes)];
  if (site.relative() != "attn.z") return rows;
  const auto& attention =
      *decoder.layers[static_cast<size_t>(site.layer)]->attention();
  const auto& W_O = attention.o_proj.weight;
  const auto out =
      mx::astype(W_O.times(mx::astype(rows, W_O.dtype())), mx::float32);
  return mx::multiply(out, mx::array(decoder.config().residual_scale));
}

mx::array decoder_rows(const Sae& sae, const std::vector<int>& features) {
  for (const int feature : features)
    if (feature < 0 || feature >= sae.d_sae())
      fail(
          ErrorKind::out_of_range,
          "[sae] feature {} is out of range; there are {}, numbered from 0",
          feature,
          sae.d_sae());
  return mx::take(
      sae.W_dec,
      mx::array(
          features.data(), {static_cast<int>(features.size())}, mx::int32),
      0);
}

void for_each_logits(
    const InterpretableModel& model,
    const Sae& sae,
    const std::vector<int>& features,
    const SaeSites& sites,
    const std::function<void(int feature, std::span<const float>)>& tell) {
  need_logits(model, sae, sites);
  const auto& decoder = model.decoder();
  const auto& unembed = decoder.unembed.weight();
  // A few rows of the vocabulary's size at a time.
  constexpr size_t step = 64;
  for (size_t from = 0; from < features.size(); from += step) {
    const std::vector<int> some(
        features.begin() + static_cast<long>(from),
        features.begin() +
            static_cast<long>(std::min(features.size(), from + step)));
    const auto rows =
        through_gain(decoder, in_stream(model, sites, decoder_rows(sae, some)));
    auto logits = mx::contiguous(mx::multiply(
        mx::astype(
            unembed.times(mx::astype(rows, unembed.dtype())), mx::float32),
        mx::array(decoder.config().logit_scale)));
    logits.eval();
    const auto vocab = static_cast<size_t>(logits.shape(-1));
    for (size_t i = 0; i < some.size(); ++i)
      tell(some[i], {logits.data<float>() + i * vocab, vocab});
  }
}

FeatureLogits furthest_logits(
    int feature, std::span<const float> logits, int top) {
  top = std::clamp(top, 0, static_cast<int>(logits.size()));
  std::vector<int> order(logits.size());
  const auto furthest = [&](auto before) {
    for (size_t t = 0; t < order.size(); ++t)
      order[t] = static_cast<int>(t);
    const auto at = [&](int t) { return logits[static_cast<size_t>(t)]; };
    std::ranges::partial_sort(order, order.begin() + top, [&](int a, int b) {
      return before(at(a), at(b)) || (at(a) == at(b) && a < b);
    });
    std::vector<FeatureToken> tokens;
    for (int t = 0; t < top; ++t)
      tokens.push_back(
          {order[static_cast<size_t>(t)], at(order[static_cast<size_t>(t)])});
    return tokens;
  };
  return {
      .feature = feature,
      .promoted = furthest(std::greater<>()),
      .suppressed = furthest(std::less<>())};
}

std::vector<FeatureLogits> feature_logits(
    const InterpretableModel& model,
    const Sae& sae,
    const std::vector<int>& features,
    int top,
    const SaeSites& sites) {
  need_logits(model, sae, sites);
  std::vector<FeatureLogits> out;
  if (top <= 0) return out;
  for_each_logits(
      model,
      sae,
      features,
      sites,
      [&](int feature, std::span<const float> logits) {
        out.push_back(furthest_logits(feature, logits, top));
      });
  return out;
}

FeatureAttribution feature_attribution(
    const InterpretableModel& model,
    const Sae& sae,
    const Inputs& prompt,
    const Metric& metric,
    const SaeSites& sites) {
  need_logits(model, sae, sites);
  if (metric.kind != Metric::Kind::logit &&
      metric.kind != Metric::Kind::logit_diff)
    fail(
        ErrorKind::usage,
        "[sae] '{}' is not a sum over features; use logit or logit_diff",
        printable(metric.name));
  if (sae.undo_norm && sae.norm != SaeNorm::none)
    fail(
        ErrorKind::usage,
        "[sae] the reconstruction of this SAE is scaled back row by row, so "
        "its features do not simply add up; ablate them instead");
  const auto prompts = model.token_ids(prompt);
  if (prompts.size() != 1)
    fail(
        ErrorKind::usage,
        "[sae] features are attributed to the logit of one prompt, not of {}",
        prompts.size());
  const auto read = readout(model, metric);
  const int position = read.position_in(static_cast<int>(prompts[0].size()));
  const auto& decoder = model.decoder();
  const int layers = decoder.config().n_layers;
  const auto& site = model.sites()[model.sites().find(sites.writes)];
  std::vector<std::string> save = {sites.reads, sites.writes, "ln_final.scale"};
  // What enters a layer, and what its parts add, is multiplied by its scalar.
  const int scaled_from =
      site.layer + (site.relative() == "resid_post" ? 1 : 0);
  std::vector<std::string> scalars;
  for (int i = scaled_from; i < layers; ++i)
    if (decoder.layers[static_cast<size_t>(i)]->layer_scalar)
      scalars.push_back(fmt::format("layers.{}.layer_scalar", i));
  save.insert(save.end(), scalars.begin(), scalars.end());
  const auto run = model.run(prompts[0], {.save = save});
  const auto at = [&](const std::string& name) {
    return mx::reshape(
        mx::astype(mx::take(run[name], position, 1), mx::float32), {1, -1});
  };
  auto direction = mx::divide(
      before_gain(
          decoder.ln_final,
          decoder.config().norm,
          logit_direction(decoder, read.columns())),
      mx::reshape(at("ln_final.scale"), {}));
  for (const auto& scalar : scalars)
    direction = mx::multiply(
        direction, mx::reshape(mx::astype(run[scalar], mx::float32), {}));

  const auto x = at(sites.reads), target = at(sites.writes);
  const auto acts = encode(sae, x);
  const auto recon = decode(sae, acts, x);
  const auto on_stream = [&](const mx::array& rows) {
    return mx::matmul(
        in_stream(model, sites, rows), mx::reshape(direction, {-1, 1}));
  };
  const auto error = on_stream(mx::subtract(target, recon));
  const auto all = on_stream(target);
  auto bias = mx::expand_dims(sae.b_dec, 0);
  if (sae.W_skip) bias = mx::add(bias, mx::matmul(x, *sae.W_skip));
  auto biased = on_stream(bias);
  auto flat = mx::contiguous(mx::reshape(acts, {-1}));
  mx::eval(flat, error, all, biased);
  std::vector<int> active;
  for (int i = 0; i < sae.d_sae(); ++i)
    if (flat.data<float>()[i] != 0) active.push_back(i);

  FeatureAttribution out{
      .sites = sites,
      .bias = biased.item<float>(),
      .error = mx::array(error).item<float>(),
      .total = mx::array(all).item<float>()};
  if (active.empty()) return out;
  auto each = mx::contiguous(on_stream(decoder_rows(sae, active)));
  each.eval();
  for (size_t i = 0; i < active.size(); ++i) {
    const float act = flat.data<float>()[active[i]];
    out.parts.push_back({active[i], act, act * each.data<float>()[i]});
  }
  std::ranges::stable_sort(out.parts, std::greater<>(), [](const auto& part) {
    return std::abs(part.value);
  });
  return out;
}

SteeringVector feature_direction(
    const InterpretableModel& model,
    const Sae& sae,
    int feature,
    const SaeSites& sites) {
  const auto& site = model.sites()[model.sites().find(sites.writes)];
  const auto part = site.relative();
  const int layer = part == "resid_pre" ? site.layer - 1 : site.layer;
  const bool same =
      part == "resid_pre" || part == "resid_post" || part == "mlp_out";
  if (!same || layer < 0 || sae.kind == SaeKind::cross_layer)
    fail(
        ErrorKind::usage,
        "[sae] adding a feature of '{}' is not adding it at a resid_post; edit "
        "it where the SAE is attached instead",
        sites.writes);
  auto row = mx::contiguous(mx::reshape(decoder_rows(sae, {feature}), {-1}));
  row.eval();
  SteeringVector out;
  out.layers.push_back({.layer = layer, .direction = std::move(row)});
  out.method = fmt::format("sae feature {}", feature);
  out.model = sae.source.model;
  out.model_layers = layer_count(model);
  if (const auto* decoder = decoder_of(model))
    out.model_type = decoder->config().model_type;
  out.tokenizer = tokenizer_digest(model);
  return out;
}

}  // namespace mlxterp
