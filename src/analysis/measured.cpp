#include "analysis/measured.h"

#include "mlx/ops.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// [row, pos, d_model] of prompts of n tokens to [row, pos, column], float32.
mx::array logits(
    const InterpretableModel& model,
    const mx::array& x,
    int n,
    const Readout& metric,
    Observer* observer) {
  const PassRows rows{
      .lengths = std::vector<int>(static_cast<size_t>(x.shape(0)), n)};
  return mx::astype(
      Stepper(model, observer, rows).head(x, metric.columns()), mx::float32);
}

}  // namespace

mx::array logits_at_end(
    const InterpretableModel& model,
    const mx::array& x,
    int n,
    const Readout& metric,
    Observer* observer) {
  const int at = metric.position_in(n);
  // What edits the head may look at positions.
  if (Stepper::edits_head(model)) {
    const auto whole = mx::slice(x, {0, 0, 0}, {x.shape(0), n, x.shape(2)});
    return mx::take(logits(model, whole, n, metric, observer), at, 1);
  }
  return mx::squeeze(
      logits(
          model,
          mx::slice(x, {0, at, 0}, {x.shape(0), at + 1, x.shape(2)}),
          1,
          metric,
          observer),
      1);
}

mx::array measured(
    const InterpretableModel& model,
    const mx::array& x,
    const std::vector<int>& ids,
    const Readout& metric,
    const std::optional<mx::array>& reference,
    Observer* observer) {
  const int n = static_cast<int>(ids.size());
  if (!metric.every_position()) {
    return metric.values(
        logits_at_end(model, x, n, metric, observer), reference, {});
  }
  const int batch = x.shape(0), d_model = x.shape(2);
  if (metric.whole_run) {
    std::vector<mx::array> each;
    for (int i = 0; i < batch; ++i)
      each.push_back(metric.values(
          mx::squeeze(
              logits(
                  model,
                  mx::slice(x, {i, 0, 0}, {i + 1, n, d_model}),
                  n,
                  metric,
                  observer),
              0),
          reference,
          {}));
    return mx::concatenate(std::move(each), 0);
  }
  const auto all = logits(
      model, mx::slice(x, {0, 0, 0}, {batch, n, d_model}), n, metric, observer);
  const auto read = mx::slice(all, {0, 0, 0}, {batch, n - 1, all.shape(2)});
  std::vector<int> next;
  for (int i = 0; i < batch; ++i)
    next.insert(next.end(), ids.begin() + 1, ids.end());
  const auto values =
      metric.values(mx::reshape(read, {-1, all.shape(2)}), reference, next);
  return mx::mean(mx::reshape(values, {batch, n - 1}), 1);
}

}  // namespace mlxterp
