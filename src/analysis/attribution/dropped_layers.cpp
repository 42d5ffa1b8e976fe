#include "analysis/attribution/dropped_layers.h"

#include <utility>

#include "analysis/linear/linear_layer.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

mx::array rows(const mx::array& x, int from, int to) {
  auto first = mx::Shape(x.ndim(), 0), last = x.shape();
  first[0] = from;
  last[0] = to;
  return mx::slice(x, first, last);
}

// Row 0 `whole` times, then `own`, then the others.
mx::array joined(const mx::array& all, const mx::array& own, int whole) {
  std::vector<mx::array> parts;
  if (whole > 0) parts.push_back(mx::repeat(rows(all, 0, 1), whole, 0));
  parts.push_back(own);
  if (all.shape(0) > 1) parts.push_back(rows(all, 1, all.shape(0)));
  return mx::concatenate(std::move(parts), 0);
}

}  // namespace

void DroppedLayers::walk(
    const Stream& points,
    int length,
    const Top& top,
    const Found& found,
    const std::function<void(int layer)>& on_layer) const {
  Stepper stepper(
      model,
      nullptr,
      {.lengths = std::vector(static_cast<size_t>(points.x.shape(0)), length)});
  stepper.carried() = points.carried;
  const int n = model.decoder().config().n_layers;
  std::vector<Stream> entering;
  auto x = points.x;
  for (int i = 0; i < n; ++i) {
    entering.push_back({x, stepper.carried()});
    x = stepper.layer(i, x);
  }
  // Row 0 is the whole gradient's.
  Stream above{mx::expand_dims(top(x), 0)};
  for (int i = n - 1; i >= from; --i) {
    LinearLayer layer(
        model,
        held,
        i,
        length,
        entering[static_cast<size_t>(i)],
        points.carried);
    std::vector<size_t> own_sites;
    for (size_t k = 0; k < watched.size(); ++k)
      if (model.sites()[watched[k]].layer == i) {
        layer.watch(watched[k], zeros[k]);
        own_sites.push_back(k);
      }
    const auto below = layer.back(above);
    const auto first = [](const mx::array& it) { return rows(it, 0, 1); };
    const auto own = layer.back(
        {first(above.x), each(above.carried, first)}, 0, /*dropped=*/true);
    for (size_t k = 0; k < own_sites.size(); ++k)
      found(
          own_sites[k], joined(below.gradients[k], own.gradients[k], i - from));
    above = {joined(below.rows.x, own.rows.x, 1)};
    std::vector<mx::array> kept;
    for (const auto& [name, value] : below.rows.carried)
      kept.push_back(
          above.carried
              .emplace(name, joined(value, own.rows.carried.at(name), 1))
              .first->second);
    kept.push_back(above.x);
    if (i > from) mx::eval(std::move(kept));
    on_layer(i);
  }
}

}  // namespace mlxterp
