#include "analysis/linear/linear_run.h"

#include <utility>

#include "analysis/int_array.h"
#include "analysis/linear/linear_layer.h"
#include "analysis/linear/plain_layer.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

LinearRun::LinearRun(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const HeldSites& held)
    : model_(model), held_(held), positions_(static_cast<int>(ids.size())) {
  const auto& decoder = model.decoder();
  Stepper stepper(model, nullptr, {.lengths = {positions_}});
  auto x = stepper.embed(mx::reshape(int_array(ids), {1, positions_}));
  std::vector<mx::array> kept;
  const int n = decoder.config().n_layers;
  for (int i = 0; i < n; ++i) {
    entering_.push_back({x, stepper.carried()});
    kept.push_back(x);
    for (const auto& [name, value] : stepper.carried())
      kept.push_back(value);
    if (i + 1 < n) x = stepper.layer(i, x);
  }
  mx::eval(kept);
}

bool LinearRun::taken_apart(int layer, int from, int to, int rows) const {
  return !held_.any() && rows >= rows_that_pay &&
         PlainLayer::knows(model_, layer, from, to);
}

double LinearRun::memory(int from, int to, int rows) const {
  // What goes into a layer, and what comes out, in parts and as a whole; in
  // place, parts alone.
  constexpr double apart = 3, in_place = 1.5;
  if (!PlainLayer::best(entering_[0].x.dtype()).in_place) return apart;
  for (int layer = 0; layer < layers(); ++layer)
    if (!taken_apart(layer, from, to, rows)) return apart;
  return in_place;
}

Stream LinearRun::transport(int layer, Stream rows, int from) const {
  const int to = from + rows.x.shape(0);
  if (rows.carried.empty() && taken_apart(layer, from, to, rows.x.shape(1))) {
    const auto& in = entering_[static_cast<size_t>(layer)];
    const PlainLayer apart(
        model_, layer, in.x, from, to, PlainLayer::best(in.x.dtype()));
    return {apart.transport(std::exchange(rows.x, mx::array(0)))};
  }
  // At one point.
  const auto point = [](const mx::array& x) { return mx::expand_dims(x, 1); };
  const LinearLayer own(
      model_,
      held_,
      layer,
      positions_,
      entering_[static_cast<size_t>(layer)],
      entering_[0].carried);
  const auto found = own.back(
      {point(mx::swapaxes(rows.x, 0, 1)), each(rows.carried, point)}, from);
  const auto plain = [](const mx::array& x) { return mx::squeeze(x, 1); };
  Stream below{
      mx::contiguous(
          mx::astype(mx::swapaxes(plain(found.rows.x), 0, 1), mx::float32)),
      each(found.rows.carried, plain)};
  std::vector<mx::array> made{below.x};
  for (const auto& [name, value] : below.carried)
    made.push_back(value);
  mx::eval(std::move(made));
  return below;
}

}  // namespace mlxterp
