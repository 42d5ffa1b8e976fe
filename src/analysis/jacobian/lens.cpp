#include <fmt/ranges.h>

#include <algorithm>

#include "analysis/jacobian/source.h"
#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

using jacobian::caller;

int JacobianLens::d_model() const {
  return matrices.empty() ? 0 : matrices[0].shape(0);
}

bool JacobianLens::has(int layer) const {
  return std::ranges::find(layers, layer) != layers.end();
}

const mx::array& JacobianLens::at(int layer) const {
  const auto found = std::ranges::find(layers, layer);
  if (found == layers.end())
    fail(
        ErrorKind::out_of_range,
        "[{}] the lens has no layer {}; it has {}",
        caller,
        layer,
        fmt::join(layers, ", "));
  return matrices[static_cast<size_t>(found - layers.begin())];
}

mx::array JacobianLens::operator()(const mx::array& h, int layer) const {
  if (h.ndim() < 1 || h.shape(-1) != d_model())
    fail(
        ErrorKind::usage,
        "[{}] the residual has {} features; this lens reads {}",
        caller,
        h.ndim() < 1 ? 0 : h.shape(-1),
        d_model());
  if (layer == source.target_layer && !has(layer)) return h;
  return mx::astype(
      mx::matmul(mx::astype(h, mx::float32), mx::transpose(at(layer))),
      h.dtype());
}

mx::array JacobianLens::directions(
    const InterpretableModel& model,
    const std::vector<int>& tokens,
    int layer) const {
  const auto& decoder = model.decoder();
  if (decoder.config().d_model != d_model())
    fail(
        ErrorKind::usage,
        "[{}] the model has {} features; this lens reads {}",
        caller,
        decoder.config().d_model,
        d_model());
  auto w = jacobian::unembedding_of(model, tokens);
  if (layer == source.target_layer && !has(layer)) return w;
  return mx::matmul(w, at(layer));
}

void JacobianLens::check_fits(
    const InterpretableModel& model, bool any_model) const {
  jacobian::check_fits(source, layers, d_model(), model, any_model);
}

JacobianLens merge(const std::vector<JacobianLens>& lenses) {
  if (lenses.empty())
    fail(ErrorKind::usage, "[{}] no lenses to merge; give two", caller);
  auto out = lenses[0];
  for (size_t i = 0; i < lenses.size(); ++i) {
    const auto& it = lenses[i];
    if (it.source.prompts == 0)
      fail(
          ErrorKind::usage,
          "[{}] lens {} does not say how many prompts it has seen; it cannot "
          "be weighed",
          caller,
          i);
    if (it.layers != out.layers || it.d_model() != out.d_model())
      fail(
          ErrorKind::usage,
          "[{}] lens {} has layers {} of {} features, the first {} of {}; fit "
          "the same ones",
          caller,
          i,
          fmt::join(it.layers, ","),
          it.d_model(),
          fmt::join(out.layers, ","),
          out.d_model());
    const auto differs = jacobian::difference(lenses[0].source, it.source);
    if (!differs.empty())
      fail(
          ErrorKind::usage,
          "[{}] lens {} is of another fit than the first: {}; merge lenses of "
          "one model and one estimator",
          caller,
          i,
          differs);
    for (size_t j = 0; j < i; ++j)
      if (!it.source.corpus.empty() &&
          it.source.corpus == lenses[j].source.corpus)
        fail(
            ErrorKind::usage,
            "[{}] lenses {} and {} have seen the same prompts; leave one out",
            caller,
            j,
            i);
  }
  size_t total = 0;
  for (const auto& it : lenses)
    total += it.source.prompts;
  out.source.prompts = total;
  out.source.converged = false;
  for (size_t i = 1; i < lenses.size(); ++i) {
    const auto& source = lenses[i].source;
    out.source.length = std::max(out.source.length, source.length);
    if (source.corpus.empty() || out.source.corpus.empty())
      out.source.corpus.clear();
    else
      out.source.corpus += "," + source.corpus;
  }
  for (size_t l = 0; l < out.matrices.size(); ++l) {
    auto sum = mx::zeros_like(out.matrices[l]);
    for (const auto& it : lenses)
      sum = mx::add(
          sum,
          mx::multiply(
              it.matrices[l],
              mx::array(
                  static_cast<float>(it.source.prompts) /
                  static_cast<float>(total))));
    out.matrices[l] = sum;
  }
  return out;
}

}  // namespace mlxterp
