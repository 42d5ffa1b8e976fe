#include "analysis/joint_gradients.h"

#include <algorithm>

#include "analysis/attribution/dropped_layers.h"
#include "analysis/gradient_tap.h"
#include "analysis/int_array.h"
#include "analysis/measured.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Rows of one pass beyond which a larger one is no faster.
constexpr int rows_that_pay = 1024;

// Rows [from, to) of the first axis.
mx::array rows(const mx::array& x, int from, int to) {
  auto first = mx::Shape(x.ndim(), 0), last = x.shape();
  first[0] = from;
  last[0] = to;
  return mx::slice(x, first, last);
}

Stream rows(const Stream& all, int from, int to) {
  const auto some = [&](const mx::array& x) { return rows(x, from, to); };
  return {some(all.x), each(all.carried, some)};
}

// Of the source, then of so many points on the way to the run.
PassRows lengths(const Pair& pair, int lines, bool with_source) {
  PassRows out;
  out.lengths.assign(
      static_cast<size_t>(lines), static_cast<int>(pair.run.size()));
  if (with_source)
    out.lengths.insert(
        out.lengths.begin(), static_cast<int>(pair.source.size()));
  return out;
}

// The source's value less the run's, of rows 0 and 1 of a batch.
mx::array difference(const mx::array& value, const Pair& pair) {
  const auto run = mx::astype(rows(value, 1, 2), mx::float32);
  const auto source = mx::astype(rows(value, 0, 1), mx::float32);
  return mx::subtract(aligned(source, pair, run), run);
}

mx::array through_layers(
    const InterpretableModel& model,
    Observer& observer,
    PassRows of_rows,
    const Stream& batch) {
  Stepper stepper(model, &observer, std::move(of_rows));
  stepper.carried() = batch.carried;
  auto x = batch.x;
  for (int i = 0; i < model.decoder().config().n_layers; ++i)
    x = stepper.layer(i, x);
  return x;
}

}  // namespace

int JointGradients::drops() const {
  return model.decoder().config().n_layers - drop_from;
}

void JointGradients::tell(double rows) const {
  if (report) report(rows / (double(steps) * (1 + drops())));
}

JointGradients::Result JointGradients::compute() const {
  const auto line =
      embedded(static_cast<int>(std::max(pair.run.size(), pair.source.size())));
  auto out = whole(line);
  const auto more = drops() > 0 ? dropped(line, out) : Parts{};
  for (const auto& [part, value] : out.parts)
    out.result.parts.push_back(
        more.empty() ? value : mx::concatenate({value, more.at(part)}, 0));
  mx::eval(out.result.parts);
  tell(double(steps) * (1 + drops()));
  return out.result;
}

void JointGradients::add(
    size_t index,
    const mx::array& gradient,
    const Values& values,
    Parts& parts) const {
  for (const auto& [part, value] : contract(index, gradient, values)) {
    const auto [it, first] = parts.try_emplace(part, value);
    if (!first) it->second = mx::add(it->second, value);
  }
}

// What enters layer 0: [1, pos, d_model] of the source, and of the run and of
// the points on the way to it, [step, pos, d_model].
// So goes what travels beside it.
JointGradients::Line JointGradients::embedded(int length) const {
  std::vector<int> ids(static_cast<size_t>(2 * length));
  std::ranges::copy(pair.source, ids.begin());
  std::ranges::copy(pair.run, ids.begin() + length);
  Stepper stepper(model, nullptr, lengths(pair, 1, true));
  const auto x = stepper.embed(mx::reshape(int_array(ids), {2, length}));
  const Stream both{x, stepper.carried()};
  auto source = rows(both, 0, 1), run = rows(both, 1, 2);
  if (steps == 1) return {source, run};
  std::vector<float> shares;
  for (int k = 0; k < steps; ++k)
    shares.push_back(static_cast<float>(k) / static_cast<float>(steps));
  const mx::array share(shares.data(), {steps, 1, 1});
  const auto between = [&](const mx::array& from, const mx::array& to) {
    auto by = mx::astype(share, from.dtype());
    while (by.ndim() < from.ndim())
      by = mx::expand_dims(by, -1);
    const auto way = mx::subtract(aligned(to, pair, from), from);
    return mx::add(from, mx::multiply(by, way));
  };
  Stream points{between(run.x, source.x)};
  for (const auto& [name, value] : run.carried)
    points.carried.emplace(name, between(value, source.carried.at(name)));
  return {source, points};
}

JointGradients::Whole JointGradients::whole(const Line& line) const {
  const int chunk = std::max(1, rows_that_pay / line.source.x.shape(1));
  Whole out;
  auto& kept = out.values;
  auto& reference = out.reference;
  std::vector<mx::array> gradients;
  for (int done = 0; done < steps; done += chunk) {
    tell(done);
    const int lines = std::min(chunk, steps - done);
    auto batch = rows(line.points, done, done + lines);
    // The source runs along with the first.
    const int first = done == 0 ? 1 : 0;
    if (first)
      batch = {
          mx::concatenate({line.source.x, batch.x}, 0),
          concatenate({line.source.carried, batch.carried}, 0)};
    GradientTap tap(
        model.sites().size(), watched, first ? seen : std::vector<SiteId>{});
    HeldObserver observer(held, &tap);
    std::optional<mx::array> of_source;
    auto [values, grads] = mx::vjp(
        [&](const std::vector<mx::array>& added) {
          tap.zeros = &added;
          const auto x = through_layers(
              model, observer, lengths(pair, lines, first == 1), batch);
          if (first && metric.needs_reference()) {
            const int row = clean_source ? 0 : 1;
            const auto& ids = clean_source ? pair.source : pair.run;
            reference = mx::stop_gradient(logits_at_end(
                model,
                rows(x, row, row + 1),
                static_cast<int>(ids.size()),
                metric));
          }
          if (first)
            of_source = mx::stop_gradient(
                measured(model, rows(x, 0, 1), pair.source, metric, reference));
          return std::vector{measured(
              model,
              rows(x, first, first + lines),
              pair.run,
              metric,
              reference,
              &observer)};
        },
        zeros,
        {mx::ones({lines})});
    for (size_t i = 0; first && i < watched.size(); ++i)
      kept.differences.push_back(difference(tap.values[i].value(), pair));
    for (size_t i = 0; first && i < seen.size(); ++i) {
      const auto& value = tap.seen_values[i].value();
      kept.seen.emplace_back(rows(value, 1, 2), rows(value, 0, 1));
    }
    for (size_t i = 0; i < gradients.size(); ++i)
      grads[i] = mx::add(gradients[i], grads[i]);
    gradients = std::move(grads);
    const bool last = done + lines == steps;
    for (size_t i = 0; last && i < watched.size(); ++i)
      add(i, gradients[i], kept, out.parts);
    auto wanted = last ? std::vector<mx::array>{} : gradients;
    for (const auto& [part, value] : out.parts)
      wanted.push_back(value);
    if (first) {
      wanted.push_back(values[0]);
      wanted.push_back(*of_source);
      if (reference) wanted.push_back(*reference);
    }
    if (first && (!last || drops() > 0)) {
      const auto& all = kept.differences;
      wanted.insert(wanted.end(), all.begin(), all.end());
      for (const auto& [run, source] : kept.seen)
        wanted.insert(wanted.end(), {run, source});
    }
    std::vector<mx::array> zero;
    for (size_t i = 0; last && i < gradients.size() && held.any(); ++i)
      zero.push_back(mx::all(mx::equal(gradients[i], mx::array(0.0f))));
    wanted.insert(wanted.end(), zero.begin(), zero.end());
    mx::eval(std::move(wanted));
    for (auto& it : zero)
      out.result.vanished.push_back(it.item<bool>());
    if (first) {
      out.result.run = static_cast<double>(rows(values[0], 0, 1).item<float>());
      out.result.source = pair.run == pair.source && pair.position_map.empty()
                              ? out.result.run
                              : static_cast<double>(of_source->item<float>());
    }
  }
  return out;
}

JointGradients::Parts JointGradients::dropped(
    const Line& line, const Whole& whole) const {
  const int chunk = std::max(1, rows_that_pay / line.source.x.shape(1));
  const int layers = model.decoder().config().n_layers;
  const DroppedLayers walk{model, held, watched, zeros, drop_from};
  Parts parts;
  for (int done = 0; done < steps; done += chunk) {
    const int lines = std::min(chunk, steps - done);
    const auto measure = [&](const std::vector<mx::array>& last) {
      HeldObserver observer(held);
      return std::vector{measured(
          model, last[0], pair.run, metric, whole.reference, &observer)};
    };
    walk.walk(
        rows(line.points, done, done + lines),
        static_cast<int>(pair.run.size()),
        [&](const mx::array& last) {
          return mx::vjp(measure, {last}, {mx::ones({lines})}).second[0];
        },
        [&](size_t index, const mx::array& gradient) {
          add(index, gradient, whole.values, parts);
        },
        [&](int layer) {
          std::vector<mx::array> wanted;
          for (const auto& [part, value] : parts)
            wanted.push_back(value);
          mx::eval(std::move(wanted));
          tell(steps + done * drops() + lines * (layers - layer));
        });
  }
  return parts;
}

}  // namespace mlxterp
