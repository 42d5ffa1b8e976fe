#include "analysis/text_stretch.h"

#include <algorithm>

#include "analysis/any_model.h"
#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr size_t logits_budget = size_t{256} << 20;

}  // namespace

mx::array rows(const mx::array& x, int from, int to) {
  return mx::slice(x, {from, 0}, {to, x.shape(1)});
}

// W h + b, in float32.
mx::array translated(
    const mx::array& h, const mx::array& weight, const mx::array& bias) {
  return mx::addmm(bias, mx::astype(h, mx::float32), mx::transpose(weight));
}

// Logits of residuals in the model's dtype, as float32.
mx::array logits_of(
    const InterpretableModel& model,
    const Stretch& stretch,
    const mx::array& h) {
  const auto* decoder = decoder_of(model);
  if (!decoder)
    return logits_of_last(
        model, {stretch.ids.begin(), stretch.ids.begin() + h.shape(0)}, h);
  Pass pass;
  return mx::astype(
      decoder->unembed(decoder->ln_final(h, pass), pass), mx::float32);
}

Stretch read_stretch(const InterpretableModel& model, std::vector<int> ids) {
  const int layers = layer_count(model);
  std::vector<std::string> save;
  for (int i = 0; i < layers; ++i)
    save.push_back(fmt::format("layers.{}.resid_post", i));
  Stretch out;
  out.length = static_cast<int>(ids.size());
  out.ids = std::move(ids);
  const auto values = model.run(out.ids, {.save = save});
  for (const auto& name : save)
    out.residuals.push_back(mx::squeeze(values[name], 0));
  return out;
}

int chunk_of(const InterpretableModel& model) {
  const auto row = static_cast<size_t>(vocabulary(model)) * sizeof(float);
  return static_cast<int>(std::max<size_t>(1, logits_budget / row));
}

void check_stretch(
    const InterpretableModel& model, int length, const char* function) {
  const int context = context_length(model);
  if (length < 2 || length > context)
    fail(
        ErrorKind::usage,
        "[{}] the length is {} tokens; give 2 to {}, the model's context",
        function,
        length,
        context);
}

}  // namespace mlxterp
