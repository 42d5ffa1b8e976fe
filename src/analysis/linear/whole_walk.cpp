#include "analysis/linear/whole_walk.h"

#include <algorithm>

#include "analysis/int_array.h"
#include "analysis/linear/plain_layer.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Roughly what a layer keeps of a position to be differentiated: streams and
// norms, the MLP's inner values, scores and patterns.
size_t bytes_of(const Decoder& decoder, int positions) {
  const auto& config = decoder.config();
  size_t numbers = 0;
  for (const auto& layer : decoder.layers) {
    numbers += 16 * static_cast<size_t>(config.d_model);
    if (layer->mlp)
      numbers += 5 * static_cast<size_t>(layer->mlp->up_proj.weight.shape(0));
    if (const auto* attention = layer->attention())
      numbers += 4 * static_cast<size_t>(attention->config().n_heads) *
                 static_cast<size_t>(positions);
  }
  return numbers * static_cast<size_t>(positions) * sizeof(float);
}

}  // namespace

bool walks_whole(
    const InterpretableModel& model, int rows, int positions, size_t memory) {
  const auto& decoder = model.decoder();
  const auto experts = [](const auto& layer) { return layer->moe.has_value(); };
  return mx::default_device() == mx::Device::cpu && rows < rows_that_pay &&
         std::ranges::none_of(decoder.layers, experts) &&
         static_cast<size_t>(rows + 1) * bytes_of(decoder, positions) <= memory;
}

std::vector<mx::array> walk_whole(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const HeldSites& held,
    const mx::array& rows,
    PositionRange at,
    const std::vector<int>& layers) {
  const int positions = static_cast<int>(ids.size()), d = rows.shape(1);
  const int n = model.decoder().config().n_layers;
  const std::vector nothings(layers.size(), mx::zeros({1, positions, d}));
  const auto run = [&](const std::vector<mx::array>& added) {
    HeldObserver observer(held);
    Stepper stepper(
        model, held.any() ? &observer : nullptr, {.lengths = {positions}});
    auto x = stepper.embed(mx::reshape(int_array(ids), {1, positions}));
    size_t next = 0;
    for (int layer = 0; layer < n; ++layer) {
      x = stepper.layer(layer, x);
      if (next < layers.size() && layers[next] == layer)
        x = mx::add(x, mx::astype(added[next++], x.dtype()));
    }
    return std::vector{
        mx::astype(mx::slice(x, {0, at.from, 0}, {1, at.to, d}), mx::float32)};
  };
  const auto back = [&](const std::vector<mx::array>& row) {
    auto by = mx::vjp(
                  run,
                  nothings,
                  {mx::broadcast_to(
                      mx::reshape(row[0], {1, 1, d}), {1, at.to - at.from, d})})
                  .second;
    for (auto& it : by)
      it = mx::squeeze(mx::slice(it, {0, at.from, 0}, {1, at.to, d}), 0);
    return by;
  };
  return mx::vmap(back)({mx::astype(rows, mx::float32)});
}

}  // namespace mlxterp
