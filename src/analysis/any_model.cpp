#include "analysis/any_model.h"

#include <algorithm>

#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

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

int head_count(const InterpretableModel& model) {
  if (const auto* decoder = decoder_of(model)) return decoder->config().n_heads;
  auto trace = model.trace(std::vector<int>{0});
  return trace.value("layers.0.attn.pattern").shape(1);
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
