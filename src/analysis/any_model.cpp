#include "analysis/any_model.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

std::string pattern_of(int layer) {
  return fmt::format("layers.{}.attn.pattern", layer);
}

}  // namespace

const Decoder* decoder_of(const InterpretableModel& model) {
  return dynamic_cast<const Decoder*>(&model.module());
}

int layer_count(const InterpretableModel& model) {
  if (const auto* decoder = decoder_of(model))
    return decoder->config().n_layers;
  const auto& sites = model.sites();
  int layers = 0;
  for (size_t i = 0; i < sites.size(); ++i)
    layers = std::max(layers, sites[static_cast<SiteId>(i)].layer + 1);
  if (layers == 0)
    fail(ErrorKind::usage, "[model] it has no layers; this needs some");
  return layers;
}

int vocabulary(const InterpretableModel& model) {
  if (const auto* decoder = decoder_of(model)) return decoder->config().vocab;
  const auto logits = model(std::vector<int>{0});
  if (logits.ndim() != 3)
    fail(
        ErrorKind::usage,
        "[model] it returns an array of {} axes; this needs logits [batch, "
        "pos, vocab]",
        logits.ndim());
  return logits.shape(-1);
}

std::vector<int> attention_layers(const InterpretableModel& model) {
  const auto* decoder = decoder_of(model);
  std::vector<int> out;
  for (int i = 0; i < layer_count(model); ++i) {
    const bool has =
        decoder
            ? decoder->layers[static_cast<size_t>(i)]->attention() != nullptr
            : model.sites().contains(pattern_of(i));
    if (has) out.push_back(i);
  }
  return out;
}

void require_attention(const Decoder& decoder, int layer, const char* who) {
  const auto& layers = decoder.layers;
  const auto& asked = *layers[static_cast<size_t>(layer)];
  if (asked.attention()) return;
  std::vector<size_t> have;
  for (size_t i = 0; i < layers.size(); ++i)
    if (layers[i]->attention()) have.push_back(i);
  fail(
      ErrorKind::usage,
      "[{}] layer {} has '{}' in place of attention; {}{}",
      who,
      layer,
      asked.mixer->name(),
      have.empty() ? "no layer has any" : "layers that have it: ",
      fmt::join(have, ", "));
}

int head_count(const InterpretableModel& model) {
  const auto layers = attention_layers(model);
  const auto* decoder = decoder_of(model);
  if (layers.empty() && decoder)
    fail(ErrorKind::usage, "[heads] no layer of this model has attention");
  if (decoder) return decoder->config().n_heads;
  auto trace = model.trace(std::vector<int>{0});
  return trace.value(pattern_of(layers.empty() ? 0 : layers[0])).shape(1);
}

int context_length(const InterpretableModel& model) {
  const auto* decoder = decoder_of(model);
  return decoder ? decoder->config().context : 1'000'000'000;
}

int residual_width(const InterpretableModel& model) {
  if (const auto* decoder = decoder_of(model)) return decoder->config().d_model;
  auto trace = model.trace(std::vector<int>{0});
  return trace.value("layers.0.resid_post").shape(-1);
}

mx::array logits_of_last(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const mx::array& x) {
  const auto last = fmt::format("layers.{}.resid_post", layer_count(model) - 1);
  auto stream = mx::expand_dims(x, 0);
  const auto trace = model.trace(
      ids, {{last, [&stream](const mx::array&) { return stream; }}});
  return mx::astype(mx::squeeze(trace.output(), 0), mx::float32);
}

}  // namespace mlxterp
