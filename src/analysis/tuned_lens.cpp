#include "mlxterp/analysis/tuned_lens.h"

#include "analysis/any_model.h"
#include "analysis/text_stretch.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlxterp/core/limits.h"

namespace mx = mlx::core;

namespace mlxterp {

TunedLens::TunedLens(int layers, int d_model) : d_model_(d_model) {
  if (layers < 1 || layers > limits::layers || d_model < 1 ||
      d_model > limits::d_model)
    fail(
        ErrorKind::usage,
        "[TunedLens] {} layers of {} features; give 1 to {} layers of 1 to {}",
        layers,
        d_model,
        limits::layers,
        limits::d_model);
  const auto identity = mx::eye(d_model);
  for (int i = 0; i < layers; ++i) {
    weights.push_back(identity);
    biases.push_back(mx::zeros({d_model}));
  }
}

void TunedLens::check_translator(size_t layer) const {
  const bool whole = layer < weights.size() && layer < biases.size() &&
                     weights[layer].shape() == mx::Shape{d_model_, d_model_} &&
                     biases[layer].shape() == mx::Shape{d_model_};
  if (!whole)
    fail(
        ErrorKind::usage,
        "[TunedLens] layer {} lacks a weight [{}, {}] and a bias [{}]; set "
        "weights and biases of every layer",
        layer,
        d_model_,
        d_model_,
        d_model_);
}

mx::array TunedLens::operator()(const mx::array& h, int layer) const {
  if (layer < 0 || layer >= layers())
    fail(
        ErrorKind::out_of_range,
        "[TunedLens] layer {} is out of range; there are {}",
        layer,
        layers());
  if (h.ndim() < 1 || h.shape(-1) != d_model_)
    fail(
        ErrorKind::usage,
        "[TunedLens] the residual has {} features; this lens reads {}",
        h.ndim() < 1 ? 0 : h.shape(-1),
        d_model_);
  if (layer + 1 == layers()) return h;
  const auto i = static_cast<size_t>(layer);
  check_translator(i);
  return mx::astype(translated(h, weights[i], biases[i]), h.dtype());
}

void TunedLens::check_fits(const InterpretableModel& model) const {
  const int own = layer_count(model), width = residual_width(model);
  if (layers() != own || d_model_ != width)
    fail(
        ErrorKind::usage,
        "[TunedLens] the lens reads {} layers of {} features, the model has {} "
        "of "
        "{}; use the lens that was trained on this model",
        layers(),
        d_model_,
        own,
        width);
}

}  // namespace mlxterp
