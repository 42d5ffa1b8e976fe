#include "analysis/linear/linear_run.h"

#include <algorithm>

#include "analysis/int_array.h"
#include "analysis/linear/each_row.h"
#include "analysis/linear/plain_layer.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Positions of one pass beyond which a larger one is no faster.
constexpr int positions_that_pay = 4096;

mx::array part(const mx::array& x, int axis, int from, int to) {
  auto first = mx::Shape(x.ndim(), 0), last = x.shape();
  first[static_cast<size_t>(axis)] = from;
  last[static_cast<size_t>(axis)] = to;
  return mx::slice(x, first, last);
}

mx::array repeated(const mx::array& x, int rows) {
  auto shape = x.shape();
  shape[0] = rows;
  return mx::broadcast_to(x, shape);
}

}  // namespace

LinearRun::LinearRun(
    const InterpretableModel& model,
    const std::vector<int>& ids,
    const HeldSites& held)
    : model_(model), held_(held), positions_(static_cast<int>(ids.size())) {
  const auto& decoder = model.decoder();
  Stepper stepper(model, nullptr, {.lengths = {positions_}});
  auto x = stepper.embed(mx::reshape(int_array(ids), {1, positions_}));
  for (const auto& [name, value] : stepper.carried())
    constant_.push_back(name);
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

Stream LinearRun::transport(int layer, const Stream& rows, int from) const {
  const int to = from + rows.x.shape(0);
  if (!held_.any() && rows.carried.empty() &&
      rows.x.shape(1) >= rows_that_pay &&
      PlainLayer::knows(model_, layer, from, to)) {
    const auto& in = entering_[static_cast<size_t>(layer)];
    return {PlainLayer(model_, layer, in.x, from, to).transport(rows.x)};
  }
  auto below =
      differentiated(layer, {mx::swapaxes(rows.x, 0, 1), rows.carried}, from);
  below.x = mx::contiguous(mx::swapaxes(below.x, 0, 1));
  below.x.eval();
  return below;
}

Stream LinearRun::differentiated(
    int layer, const Stream& rows, int from) const {
  const int n = rows.x.shape(0);
  const int at_once = std::max(1, positions_that_pay / positions_);
  std::vector<mx::array> parts;
  std::vector<Carried> beside;
  for (int row = 0; row < n; row += at_once) {
    const int to = std::min(n, row + at_once);
    const auto some = [&](const mx::array& x) { return part(x, 0, row, to); };
    auto below = chunk(layer, {some(rows.x), each(rows.carried, some)}, from);
    std::vector<mx::array> made{below.x};
    for (const auto& [name, value] : below.carried)
      made.push_back(value);
    mx::eval(std::move(made));
    parts.push_back(std::move(below.x));
    beside.push_back(std::move(below.carried));
  }
  if (parts.size() == 1) return {parts[0], beside[0]};
  Stream all{mx::concatenate(std::move(parts), 0)};
  all.carried = concatenate(beside, 0);
  return all;
}

Stream LinearRun::chunk(int layer, const Stream& rows, int from) const {
  const auto& in = entering_[static_cast<size_t>(layer)];
  const int n = rows.x.shape(0), to = from + rows.x.shape(1);
  // Once for all rows, or once for each.
  const bool mapped =
      n > 1 && maps_rows(*model_.decoder().layers[static_cast<size_t>(layer)]);
  const int runs = mapped ? 1 : n;
  // What is differentiated by: the stream's positions there, then what earlier
  // layers made beside it.
  std::vector<std::string> names;
  std::vector<mx::array> inputs{repeated(part(in.x, 1, from, to), runs)};
  for (const auto& [name, value] : in.carried) {
    if (std::ranges::find(constant_, name) != constant_.end() ||
        !mx::issubdtype(value.dtype(), mx::floating))
      continue;
    names.push_back(name);
    inputs.push_back(repeated(part(value, 1, from, to), runs));
  }
  const auto whole = [&](const mx::array& kept, const mx::array& some) {
    std::vector<mx::array> pieces;
    if (from > 0) pieces.push_back(repeated(part(kept, 1, 0, from), runs));
    pieces.push_back(some);
    if (to < positions_)
      pieces.push_back(repeated(part(kept, 1, to, positions_), runs));
    return pieces.size() == 1 ? some : mx::concatenate(std::move(pieces), 1);
  };
  const auto run = [&](const std::vector<mx::array>& changed) {
    HeldObserver observer(held_);
    Stepper stepper(
        model_,
        held_.any() ? &observer : nullptr,
        {.lengths = std::vector(static_cast<size_t>(runs), positions_)});
    for (const auto& [name, value] : in.carried)
      stepper.carried().emplace(name, repeated(value, runs));
    for (size_t i = 0; i < names.size(); ++i)
      stepper.carried().insert_or_assign(
          names[i], whole(in.carried.at(names[i]), changed[i + 1]));
    std::vector<mx::array> out{
        part(stepper.layer(layer, whole(in.x, changed[0])), 1, from, to)};
    for (const auto& [name, cotangent] : rows.carried)
      out.push_back(part(find(stepper.carried(), name), 1, from, to));
    return out;
  };
  std::vector<mx::array> cotangents{mx::astype(rows.x, in.x.dtype())};
  for (const auto& [name, value] : rows.carried)
    cotangents.push_back(value);
  const auto below = each_row(
      [&](const std::vector<mx::array>& of) {
        return mx::vjp(run, inputs, of).second;
      },
      cotangents,
      mapped);
  Stream out{mx::astype(below[0], mx::float32)};
  for (size_t i = 0; i < names.size(); ++i)
    out.carried.emplace(names[i], below[i + 1]);
  return out;
}

}  // namespace mlxterp
