#include "sae/train/adam.h"

#include <cmath>

#include "core/parallel.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "sae/cuda/adam.h"

namespace mx = mlx::core;

namespace mlxterp::sae_train {

namespace {

// As float32: beta, 1 - beta, and what corrects the bias.
struct Numbers {
  float beta1, beta2, rest1, rest2, step, root;

  explicit Numbers(const AdamOptions& o)
      : beta1(static_cast<float>(o.beta1)),
        beta2(static_cast<float>(o.beta2)),
        rest1(static_cast<float>(1 - o.beta1)),
        rest2(static_cast<float>(1 - o.beta2)),
        step(static_cast<float>(
            o.rate / (1 - std::pow(o.beta1, static_cast<double>(o.step))))),
        root(static_cast<float>(
            1 /
            std::sqrt(1 - std::pow(o.beta2, static_cast<double>(o.step))))) {}
};

Moved by_ops(
    const Moved& from,
    const mx::array& gradient,
    float factor,
    const AdamOptions& options) {
  const Numbers n(options);
  if (auto moved = cuda::adam(
          from.parameter,
          from.first,
          from.second,
          gradient,
          {.factor = factor,
           .beta1 = n.beta1,
           .beta2 = n.beta2,
           .rest1 = n.rest1,
           .rest2 = n.rest2,
           .step = n.step,
           .root = n.root,
           .epsilon = static_cast<float>(options.epsilon)}))
    return {(*moved)[0], (*moved)[1], (*moved)[2]};
  const auto g = mx::multiply(gradient, mx::array(factor));
  const auto first = mx::add(
      mx::multiply(mx::array(n.beta1), from.first),
      mx::multiply(mx::array(n.rest1), g));
  const auto second = mx::add(
      mx::multiply(mx::array(n.beta2), from.second),
      mx::multiply(mx::array(n.rest2), mx::square(g)));
  const auto under = mx::add(
      mx::multiply(mx::sqrt(second), mx::array(n.root)),
      mx::array(static_cast<float>(options.epsilon)));
  return {
      mx::subtract(
          from.parameter,
          mx::divide(mx::multiply(mx::array(n.step), first), under)),
      first,
      second};
}

}  // namespace

Moved adam(
    const Moved& from,
    const mx::array& gradient,
    float factor,
    const AdamOptions& options,
    Engine engine) {
  if (engine == Engine::ops) return by_ops(from, gradient, factor, options);
  const Numbers n(options);
  const auto epsilon = static_cast<float>(options.epsilon);
  const auto slope = mx::contiguous(gradient);
  const auto parameter = mx::contiguous(from.parameter);
  const auto old1 = mx::contiguous(from.first);
  const auto old2 = mx::contiguous(from.second);
  mx::eval(slope, parameter, old1, old2);
  auto moved = filled_later(parameter.shape());
  auto first = filled_later(parameter.shape());
  auto second = filled_later(parameter.shape());
  constexpr size_t least = 1 << 14;
  split_over_cores(parameter.size(), least, [&](size_t begin, size_t end) {
    const auto* g = slope.data<float>();
    const auto* p = parameter.data<float>();
    const auto* m1 = old1.data<float>();
    const auto* m2 = old2.data<float>();
    auto* to = moved.data<float>();
    auto* to1 = first.data<float>();
    auto* to2 = second.data<float>();
    for (size_t i = begin; i < end; ++i) {
      const float it = g[i] * factor;
      to1[i] = n.beta1 * m1[i] + n.rest1 * it;
      to2[i] = n.beta2 * m2[i] + n.rest2 * it * it;
      to[i] = p[i] - n.step * to1[i] / (std::sqrt(to2[i]) * n.root + epsilon);
    }
  });
  return {moved, first, second};
}

mx::array without_parallel(const mx::array& gradient, const mx::array& rows) {
  const auto along =
      mx::sum(mx::multiply(gradient, rows), 1, /*keepdims=*/true);
  const auto squares = mx::sum(mx::square(rows), 1, /*keepdims=*/true);
  constexpr float tiny = 1e-30f;
  return mx::subtract(
      gradient,
      mx::multiply(
          mx::divide(along, mx::maximum(squares, mx::array(tiny))), rows));
}

mx::array with_unit_rows(const mx::array& rows) {
  const auto norms = mx::sqrt(mx::sum(mx::square(rows), 1, /*keepdims=*/true));
  return mx::where(
      mx::greater(norms, mx::array(0.0f)), mx::divide(rows, norms), rows);
}

}  // namespace mlxterp::sae_train
