#include "mlxterp/analysis/attribute.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "analysis/any_model.h"
#include "analysis/attribution/nodes.h"
#include "analysis/joint_gradients.h"
#include "analysis/pairs.h"
#include "analysis/plain_gradients.h"
#include "analysis/qk_fix.h"
#include "analysis/readout.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "trace/overlay.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Rows [from, to) of an axis.
mx::array cut(const mx::array& x, int axis, int from, int to) {
  auto first = mx::Shape(x.ndim(), 0), last = x.shape();
  first[static_cast<size_t>(axis)] = from;
  last[static_cast<size_t>(axis)] = to;
  return mx::slice(x, first, last);
}

class Attributor {
 public:
  Attributor(const InterpretableModel& model, const AttributeOptions& options)
      : model_(model),
        decoder_(decoder_of(model)),
        options_(options),
        nodes_(model, options),
        metrics_(readouts("attribute", model, options.metric, nodes_.pairs)) {
    if (decoder_)
      held_.emplace(model, options.rule, "attribute", /*from_logits=*/true);
  }

  std::vector<Attribution> attributions() {
    std::vector<Attribution> out;
    for (size_t s = 0; s < nodes_.sites.size(); ++s) {
      auto& sweep = out.emplace_back().sweep;
      out[s].site = options_.sites[s];
      sweep.axes = nodes_.sites[s].grid.axes;
      sweep.direction = options_.direction;
      sweep.pairs = nodes_.pairs.size();
      sweep.ids = nodes_.pairs[0].run;
      const auto cells = nodes_.sites[s].grid.cells.size();
      sweep.computed = cells * nodes_.pairs.size();
      sweep.metric.resize(cells);
      sweep.spread.resize(cells);
    }
    // [pair][cell], what each adds to the run's metric.
    std::vector<std::vector<std::vector<double>>> added(nodes_.sites.size());
    std::vector<double> runs;
    double run = 0, source = 0;
    for (size_t i = 0; i < nodes_.pairs.size(); ++i) {
      const auto parts = decoder_ ? together(i) : by_passes(i);
      for (size_t s = 0; s < nodes_.sites.size(); ++s) {
        auto& of_pair = added[s].emplace_back();
        for (size_t c = 0; c < out[s].sweep.cells(); ++c) {
          const double value =
              score(nodes_.sites[s], c, nodes_.pairs[i], parts.rows);
          if (!std::isfinite(parts.run + value))
            fail(
                ErrorKind::usage,
                "[attribute] '{}' at '{}' is {} in cell {} of pair {}; does "
                "the metric divide by zero, an edit of the model make such "
                "values, or the model overflow in this precision?",
                printable(options_.metric.name),
                printable(out[s].site),
                parts.run + value,
                c,
                i);
          of_pair.push_back(value);
        }
      }
      runs.push_back(parts.run);
      run += parts.run;
      source += parts.source;
    }
    const auto pairs = static_cast<double>(nodes_.pairs.size());
    const bool denoise = options_.direction == Direction::denoise;
    const double sign = gives_sizes(options_.method) && source < run ? -1 : 1;
    for (size_t s = 0; s < nodes_.sites.size(); ++s) {
      auto& sweep = out[s].sweep;
      sweep.clean = static_cast<float>((denoise ? source : run) / pairs);
      sweep.corrupt = static_cast<float>((denoise ? run : source) / pairs);
      for (size_t c = 0; c < sweep.cells(); ++c) {
        double sum = 0, squares = 0;
        for (size_t i = 0; i < nodes_.pairs.size(); ++i) {
          const double value = runs[i] + sign * added[s][i][c];
          sum += value;
          squares += value * value;
        }
        const double mean = sum / pairs;
        const double variance = squares / pairs - mean * mean;
        sweep.metric[c] = static_cast<float>(mean);
        sweep.spread[c] =
            static_cast<float>(std::sqrt(std::max(0.0, variance)));
      }
    }
    return out;
  }

 private:
  // Of one pair, by site and layer: [row, pos, unit], summed over the rest. Row
  // 0 is of the whole gradient, the others of those without a layer.
  struct Parts {
    std::vector<mx::array> rows;
    double run = 0, source = 0;  // the metric
  };

  Parts by_passes(size_t index) const {
    const auto& pair = nodes_.pairs[index];
    std::vector<std::string> names;
    for (const auto site : nodes_.watched)
      names.push_back(model_.sites()[site].name);
    const auto zeros =
        nodes_.nothings(model_, static_cast<int>(pair.run.size()));
    const auto found = PlainGradients{
        .model = model_,
        .pair = pair,
        .metric = metrics_[index],
        .sites = names,
        .zeros = zeros,
        .steps = options_.steps,
        .clean_source = options_.direction == Direction::denoise,
        .report = [&](int step) {
          report(index, step / double(options_.steps));
        }}.compute();
    Parts parts;
    for (const auto& it : nodes_.sites)
      for (const auto i : it.watched)
        parts.rows.push_back(
            contracted(it, found.gradients[i], found.differences[i], pair));
    mx::eval(parts.rows);
    parts.run = static_cast<double>(found.run);
    parts.source = static_cast<double>(found.source);
    return parts;
  }

  Parts together(size_t index) const {
    const auto& pair = nodes_.pairs[index];
    const auto zeros = nodes_.nothings(
        model_,
        static_cast<int>(std::max(pair.run.size(), pair.source.size())));
    auto found = JointGradients{
        .model = model_,
        .pair = pair,
        .metric = metrics_[index],
        .held = *held_,
        .watched = nodes_.watched,
        .zeros = zeros,
        .seen = nodes_.seen,
        .steps = options_.steps,
        .clean_source = options_.direction == Direction::denoise,
        .drop_from = gives_sizes(options_.method) ? nodes_.lowest
                                                  : decoder_->config().n_layers,
        .report = [&](double share) { report(index, share); },
        .contract =
            [&](size_t watched, const auto& gradient, const auto& values) {
              return parts_of(watched, gradient, values, pair);
            }}.compute();
    if (index == 0 && held_->any()) check_reach(found.vanished);
    return {std::move(found.parts), found.run, found.source};
  }

  // Zeros that say nothing of a site are no answer.
  void check_reach(const std::vector<bool>& vanished) const {
    for (size_t s = 0; s < nodes_.sites.size(); ++s) {
      const auto& it = nodes_.sites[s];
      auto own = it.watched;
      for (const auto& readers : it.readers)
        for (const auto& reader : readers)
          own.push_back(reader.pattern);
      if (!std::ranges::all_of(own, [&](size_t i) { return vanished[i]; }))
        continue;
      const bool fixable =
          is_query(it.site.relative) || is_key(it.site.relative);
      fail(
          ErrorKind::usage,
          "[attribute] by the rule '{}' nothing of '{}' reaches the metric: "
          "its gradient is zero everywhere, since what it acts through is "
          "held; choose another rule{}",
          printable(name(options_.rule)),
          printable(options_.sites[s]),
          fixable && !it.fixed
              ? ", or the method qk-fix, which makes patterns again"
              : " or another site");
    }
  }

  // What the gradient by one of `watched` says of each layer of each site.
  std::vector<JointGradients::Part> parts_of(
      size_t watched,
      const mx::array& gradient,
      const JointGradients::Values& values,
      const Pair& pair) const {
    std::vector<JointGradients::Part> out;
    for (const auto& it : nodes_.sites) {
      for (size_t i = 0; i < it.watched.size(); ++i)
        if (it.watched[i] == watched)
          out.emplace_back(
              it.first + i,
              contracted(it, gradient, values.differences[watched], pair));
      for (size_t i = 0; i < it.readers.size(); ++i)
        for (const auto& reader : it.readers[i]) {
          if (reader.pattern != watched) continue;
          const auto& [q, other_q] = values.seen[reader.q];
          const auto& [k, other_k] = values.seen[reader.k];
          const auto& attention = *reader.attention;
          out.emplace_back(
              it.first + i,
              finished(
                  it.query ? query_fix(attention, {q, k}, other_q, gradient)
                           : key_fix(attention, {q, k}, other_k, gradient),
                  pair));
        }
    }
    return out;
  }

  void report(size_t pair, double share) const {
    if (!options_.progress) return;
    options_.progress(
        "Attributing",
        (static_cast<double>(pair) + share) /
            static_cast<double>(nodes_.pairs.size()));
  }

  // How many leading positions have equal values in both runs: where the tokens
  // are, unless an edit that stands looks further.
  int alike(const Pair& pair) const {
    using Reach = Intervention::Reach;
    const auto* overlay = model_.overlay();
    const auto reach = overlay ? overlay->reach() : Reach::value;
    if (reach == Reach::sequence ||
        (reach == Reach::position && pair.run.size() != pair.source.size()))
      return 0;
    return pair.shared();
  }

  // Gradient times difference as [row, pos, unit], of the run's own positions.
  mx::array contracted(
      const AttributedSite& it,
      const mx::array& gradient,
      const mx::array& difference,
      const Pair& pair) const {
    auto x = mx::multiply(gradient, difference);
    if (!it.by_unit || it.site.heads > 0) x = mx::sum(x, -1);
    if (it.site.layout == Layout::scores) x = mx::swapaxes(x, 1, 2);
    if (x.ndim() == 2) x = mx::expand_dims(x, 2);
    return finished(x, pair);
  }

  mx::array finished(mx::array x, const Pair& pair) const {
    x = cut(x, 1, 0, static_cast<int>(pair.run.size()));
    // Where the two runs are one, nothing can differ; but of one product two
    // rows need not have the same bits.
    if (const int same = alike(pair); same > 0)
      x = mx::concatenate(
          {mx::zeros({x.shape(0), same, x.shape(2)}, x.dtype()),
           cut(x, 1, same, x.shape(1))},
          1);
    return mx::contiguous(
        mx::divide(x, mx::array(static_cast<float>(options_.steps))));
  }

  // What a cell adds to the metric, or of GradDrop how much.
  double score(
      const AttributedSite& it,
      size_t index,
      const Pair& pair,
      const std::vector<mx::array>& parts) const {
    if (!gives_sizes(options_.method))
      return cell(it, index, pair, parts, 0, -1);
    // Below the lowest layer that is asked for nothing is between the nodes and
    // the metric.
    const int layers = decoder_->config().n_layers;
    double sum = nodes_.lowest * std::abs(cell(it, index, pair, parts, 0, -1));
    for (int layer = nodes_.lowest; layer < layers; ++layer)
      sum += std::abs(cell(
          it,
          index,
          pair,
          parts,
          1 + layer - nodes_.lowest,
          it.stream ? -1 : layer));
    return sum / (it.stream ? layers : layers - 1);
  }

  // Of one row, without the nodes of one layer.
  static double cell(
      const AttributedSite& it,
      size_t index,
      const Pair& pair,
      const std::vector<mx::array>& parts,
      int row,
      int without) {
    double sum = 0;
    for (const auto& place : of_pair(it.grid.cells[index], pair))
      for (size_t i = 0; i < it.layers.size(); ++i) {
        if (it.layers[i] < place.first_layer ||
            it.layers[i] > place.last_layer || it.layers[i] == without)
          continue;
        const auto& part = parts[it.first + i];
        const int units = part.shape(2);
        const int from = std::max(place.unit, 0);
        const int to = place.unit < 0 ? units : place.unit + 1;
        const auto* data = part.data<float>() +
                           static_cast<ptrdiff_t>(row) * part.shape(1) * units;
        for (int p = place.from; p <= place.to; ++p)
          for (int u = from; u < to; ++u)
            sum += static_cast<double>(data[p * units + u]);
      }
    return sum;
  }

  const InterpretableModel& model_;
  const Decoder* decoder_;  // null: a model that runs elsewhere
  const AttributeOptions& options_;
  AttributedNodes nodes_;
  std::vector<Readout> metrics_;
  std::optional<HeldSites> held_;  // of a Decoder
};

}  // namespace

bool gives_sizes(AttributionMethod method) {
  return method == AttributionMethod::grad_drop ||
         method == AttributionMethod::atp_star;
}

std::vector<float> Attribution::attributions() const {
  const float run =
      sweep.direction == Direction::denoise ? sweep.corrupt : sweep.clean;
  auto out = sweep.metric;
  for (auto& value : out)
    value -= run;
  return out;
}

std::vector<Attribution> attribute(
    const InterpretableModel& model, const AttributeOptions& options) {
  return Attributor(model, options).attributions();
}

}  // namespace mlxterp
