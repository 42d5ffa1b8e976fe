#include "mlxterp/nn/linear.h"

#include <cmath>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/random.h"
#include "nn/indices.h"

namespace mx = mlx::core;

namespace mlxterp::nn {

namespace {

// Lazy: a parameter that a checkpoint replaces is never drawn.
mx::array uniform(const mx::Shape& shape, int d_in) {
  const float bound = 1.0f / std::sqrt(static_cast<float>(d_in));
  return mx::random::uniform(-bound, bound, shape);
}

}  // namespace

Linear::Linear(int d_in, int d_out, bool with_bias)
    : weight(uniform({d_out, d_in}, d_in)) {
  describe({.width = d_in}, {.width = d_out});
  add("weight", weight);
  if (with_bias) add("bias", bias.emplace(uniform({d_out}, d_in)));
}

mx::array Linear::forward(const mx::array& x, Pass&) const {
  return weight.times(x, bias);
}

Embedding::Embedding(
    int vocab,
    int d_model,
    float scale,
    float factor,
    const std::optional<NormConfig>& norm)
    : weight(uniform({vocab, d_model}, d_model)),
      scale_(scale),
      factor_(factor) {
  add("weight", weight);
  describe({.layout = Layout::other}, {.width = d_model});
  if (norm) add("ln", ln.emplace(d_model, *norm));
  if (norm || factor != 1.0f) raw_ = site("raw", {.width = d_model});
}

mx::array Embedding::forward(const mx::array& ids, Pass& pass) const {
  if (const auto id = outside(ids, weight.shape(0)))
    fail(
        ErrorKind::out_of_range,
        "[Embedding] id {} at site '{}' is out of range; ids go from 0 to {}",
        *id,
        site_name(input_slot),
        weight.shape(0) - 1);
  const auto times = [](const mx::array& x, float by) {
    return by == 1.0f ? x : mx::multiply(x, mx::array(by, x.dtype()));
  };
  auto rows = times(weight.take(ids), scale_);
  if (raw_) rows = tap(pass, *raw_, std::move(rows));
  rows = times(rows, factor_);
  return ln ? (*ln)(rows, pass) : rows;
}

}  // namespace mlxterp::nn
