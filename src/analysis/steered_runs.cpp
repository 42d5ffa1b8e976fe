#include "analysis/steered_runs.h"

#include <algorithm>

#include "analysis/int_array.h"
#include "mlx/device.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/carried_rows.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Rows beyond which a larger product is no faster, by device.
constexpr size_t rows_that_pay_cpu = 2048;
constexpr size_t rows_that_pay_gpu = 32768;

// One layer of all rows of a batch.
void climb(
    const InterpretableModel& model, int layer, int length, Stream& stream) {
  const PassRows rows{
      .lengths =
          std::vector<int>(static_cast<size_t>(stream.x.shape(0)), length)};
  Stepper stepper(model, nullptr, rows);
  stepper.carried() = std::move(stream.carried);
  stream.x = stepper.layer(layer, stream.x);
  stream.carried = std::move(stepper.carried());
}

}  // namespace

size_t SteeredRuns::walk(
    const std::function<void(size_t, const mx::array&)>& read) const {
  const int layers = model.decoder().config().n_layers;
  const int length = static_cast<int>(ids.size());
  const size_t most = std::max<size_t>(
      1,
      (mx::default_device() == mx::Device::gpu ? rows_that_pay_gpu
                                               : rows_that_pay_cpu) /
          ids.size());
  size_t rows = 0;
  double total = 0;
  for (const auto& push : pushes)
    total += layers - push.layer;
  total = std::max(total, 1.0) * length;

  // The run itself, up to where a chunk begins.
  Stepper first(model, nullptr, {.lengths = {length}});
  Stream base{first.embed(mx::expand_dims(int_array(ids), 0))};
  base.carried = std::move(first.carried());
  int at = 0;
  for (size_t begin = 0; begin < pushes.size();) {
    const size_t end = std::min(begin + most, pushes.size());
    for (; at < pushes[begin].layer; ++at) {
      climb(model, at, length, base);
      rows += ids.size();
    }
    auto now = base;
    size_t next = begin;
    for (int layer = at; layer < layers; ++layer) {
      climb(model, layer, length, now);
      rows += static_cast<size_t>(now.x.shape(0)) * ids.size();
      std::vector<mx::array> vectors;
      for (; next < end && pushes[next].layer == layer; ++next)
        vectors.push_back(pushes[next].vector);
      if (!vectors.empty()) {
        const int count = static_cast<int>(vectors.size());
        const auto run = [&](const mx::array& x) {
          return mx::slice(x, mx::Shape(x.ndim(), 0), [&] {
            auto to = x.shape();
            to[0] = 1;
            return to;
          }());
        };
        auto added = mx::expand_dims(mx::stack(vectors), 1);  // [run, 1, d]
        if (mask) added = mx::multiply(added, mx::expand_dims(*mask, 0));
        now.x = mx::concatenate(
            {now.x, mx::add(run(now.x), mx::astype(added, now.x.dtype()))}, 0);
        now.carried = each(now.carried, [&](const mx::array& x) {
          return mx::concatenate({x, mx::repeat(run(x), count, 0)}, 0);
        });
      }
      mx::async_eval(now.x);
      if (progress) progress(std::min(1.0, static_cast<double>(rows) / total));
    }
    now.x.eval();
    read(begin, now.x);
    begin = end;
  }
  return rows;
}

}  // namespace mlxterp
