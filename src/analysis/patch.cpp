#include "mlxterp/analysis/patch.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "analysis/readout.h"
#include "analysis/sites.h"
#include "analysis/wavefront.h"
#include "core/fail.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// One pair of prompts, as the run that is patched and the one it takes from.
struct Pair {
  std::vector<int> run, source;
  std::vector<int> aligned;  // by position of `run`, -1 none; empty: the same
};

// One cell: a range of layers and of positions, one unit or all.
struct Place {
  int first_layer, last_layer, from, to, unit;
};

std::vector<int> all(int n) {
  std::vector<int> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

std::vector<int> chosen(
    const std::vector<int>& asked, int n, const char* what) {
  if (asked.empty()) return all(n);
  std::vector<int> values;
  for (const int value : asked) {
    const int at = value < 0 ? n + value : value;
    if (at < 0 || at >= n)
      fail(
          ErrorKind::out_of_range,
          "[patch] {} {} is out of range; there are {}",
          what,
          value,
          n);
    values.push_back(at);
  }
  return values;
}

class Patcher {
 public:
  Patcher(const InterpretableModel& model, const PatchOptions& options)
      : model_(model),
        options_(options),
        site_(layer_site(model, options.site)),
        pairs_(make_pairs()) {
    axes();
    for (size_t i = 0; i < pairs_.size(); ++i)
      metrics_.push_back(readout(model, options.metric, i, pairs_.size()));
    for (size_t i = 0; i < pairs_.size(); ++i) {
      const auto& [run, source, aligned] = pairs_[i];
      for (const auto* ids : {&run, &source})
        metrics_[i].position_in(static_cast<int>(ids->size()));
      if (metrics_[i].every_position() && run.size() < 2)
        fail(
            ErrorKind::usage,
            "[patch] the loss needs a prompt of two tokens at least");
    }
  }

  Sweep sweep() {
    const auto places = make_places();
    const auto n = places.size();
    std::vector<double> sums(n), squares(n);
    double run = 0, source = 0;
    for (size_t i = 0; i < pairs_.size(); ++i) {
      const auto result =
          options_.plain ? plainly(i, places) : together(i, places);
      for (size_t c = 0; c < n; ++c) {
        const auto value = static_cast<double>(result.cells[c]);
        if (!std::isfinite(value))
          fail(
              ErrorKind::usage,
              "[patch] the metric '{}' is {} in cell {} of pair {}; does it "
              "divide by zero, or the model overflow in this precision?",
              printable(options_.metric.name),
              value,
              c,
              i);
        sums[c] += value;
        squares[c] += value * value;
      }
      run += static_cast<double>(result.runs[0]);
      source += static_cast<double>(result.runs[1]);
      out_.computed += result.computed;
      out_.rows += result.rows;
    }
    const auto pairs = static_cast<double>(pairs_.size());
    for (size_t c = 0; c < n; ++c) {
      const double mean = sums[c] / pairs;
      out_.metric.push_back(static_cast<float>(mean));
      out_.spread.push_back(static_cast<float>(
          std::sqrt(std::max(0.0, squares[c] / pairs - mean * mean))));
    }
    const bool denoise = options_.direction == Direction::denoise;
    out_.clean = static_cast<float>((denoise ? source : run) / pairs);
    out_.corrupt = static_cast<float>((denoise ? run : source) / pairs);
    out_.direction = options_.direction;
    out_.pairs = pairs_.size();
    out_.ids = pairs_[0].run;
    return std::move(out_);
  }

 private:
  std::vector<Pair> make_pairs() const {
    const auto clean = model_.token_ids(options_.clean);
    const auto corrupt = model_.token_ids(options_.corrupt);
    if (clean.size() != corrupt.size())
      fail(
          ErrorKind::usage,
          "[patch] {} clean and {} corrupted prompts; give as many of each",
          clean.size(),
          corrupt.size());
    const bool denoise = options_.direction == Direction::denoise;
    std::vector<Pair> pairs;
    for (size_t i = 0; i < clean.size(); ++i) {
      if (clean[i].size() != corrupt[i].size() && options_.aligned.empty())
        fail(
            ErrorKind::usage,
            "[patch] pair {}: the clean prompt has {} tokens, the corrupted "
            "one {}; make them equally long, or say which positions stand for "
            "each other (aligned)",
            i,
            clean[i].size(),
            corrupt[i].size());
      const auto& rope = model_.decoder().config().rope;
      if (!rope.alike(
              static_cast<int>(clean[i].size()),
              static_cast<int>(corrupt[i].size())))
        fail(
            ErrorKind::usage,
            "[patch] this model's rotary embedding turns prompts of {} and {} "
            "tokens otherwise; make them equally long",
            clean[i].size(),
            corrupt[i].size());
      Pair pair{
          denoise ? corrupt[i] : clean[i], denoise ? clean[i] : corrupt[i], {}};
      if (!options_.aligned.empty()) {
        pair.aligned.assign(pair.run.size(), -1);
        for (const auto& [in_clean, in_corrupt] : options_.aligned) {
          const int at = denoise ? in_corrupt : in_clean;
          const int from = denoise ? in_clean : in_corrupt;
          if (at < 0 || from < 0 ||
              static_cast<size_t>(at) >= pair.run.size() ||
              static_cast<size_t>(from) >= pair.source.size())
            fail(
                ErrorKind::out_of_range,
                "[patch] the aligned positions {} (clean) and {} (corrupted) "
                "are out of range; the prompts have {} and {} tokens",
                in_clean,
                in_corrupt,
                clean[i].size(),
                corrupt[i].size());
          pair.aligned[static_cast<size_t>(at)] = from;
        }
      }
      pairs.push_back(std::move(pair));
    }
    return pairs;
  }

  bool by(Axis axis) const {
    return std::ranges::find(options_.by, axis) != options_.by.end();
  }

  // Checks the axes and lists their values.
  void axes() {
    if (options_.by.empty())
      fail(
          ErrorKind::usage,
          "[patch] no axis to go by; name layer, pos, head or neuron");
    const auto& config = model_.decoder().config();
    const bool heads = site_.heads > 0;
    if (heads && (by(Axis::neuron) || !options_.neurons.empty()))
      fail(
          ErrorKind::usage,
          "[patch] '{}' has heads, no neurons; go by head",
          printable(options_.site));
    if (!heads && (by(Axis::head) || !options_.heads.empty()))
      fail(
          ErrorKind::usage,
          "[patch] '{}' has no heads; go by layer, pos or neuron, or take z, "
          "q, k, v or pattern",
          printable(options_.site));
    size_t length = pairs_[0].run.size();
    if (by(Axis::position) || !options_.positions.empty())
      for (size_t i = 1; i < pairs_.size(); ++i)
        if (pairs_[i].run.size() != length)
          fail(
              ErrorKind::usage,
              "[patch] pairs of {} and {} tokens have no positions in common; "
              "go by layer or head, or use prompts of one length",
              length,
              pairs_[i].run.size());
    layers_ = chosen(options_.layers, config.n_layers, "layer");
    positions_ =
        chosen(options_.positions, static_cast<int>(length), "position");
    units_ = heads ? chosen(options_.heads, site_.heads, "head")
                   : chosen(options_.neurons, site_.width, "neuron");
    for (size_t i = 0; i < options_.by.size(); ++i) {
      const auto axis = options_.by[i];
      if (std::ranges::count(options_.by, axis) > 1)
        fail(ErrorKind::usage, "[patch] the axis '{}' twice", name(axis));
      out_.axes.push_back(
          {axis,
           axis == Axis::layer      ? layers_
           : axis == Axis::position ? positions_
                                    : units_});
    }
  }

  // The cells, the last axis fastest.
  std::vector<std::vector<Place>> make_places() const {
    size_t n = 1;
    for (const auto& axis : out_.axes)
      n *= axis.values.size();
    std::vector<std::vector<Place>> cells(n);
    for (size_t c = 0; c < n; ++c) {
      std::optional<int> layer, position, unit;
      size_t rest = c;
      for (size_t a = out_.axes.size(); a-- > 0;) {
        const auto& [axis, values] = out_.axes[a];
        const int value = values[rest % values.size()];
        rest /= values.size();
        (axis == Axis::layer      ? layer
         : axis == Axis::position ? position
                                  : unit) = value;
      }
      // What is not gone by is patched at once: all of it, or all that was
      // chosen.
      const auto ranges = [](const std::optional<int>& one,
                             const std::vector<int>& some) {
        std::vector<std::pair<int, int>> out;
        if (one) return out.emplace_back(*one, *one), out;
        for (const int value : some)
          if (!out.empty() && out.back().second + 1 == value)
            out.back().second = value;
          else
            out.emplace_back(value, value);
        return out;
      };
      const bool every_unit =
          !unit && options_.heads.empty() && options_.neurons.empty();
      const auto units = every_unit ? std::vector<int>{-1}
                         : unit     ? std::vector<int>{*unit}
                                    : units_;
      const bool every_position = !position && options_.positions.empty();
      for (const auto& [first, last] : ranges(layer, layers_))
        for (const auto& [from, to] :
             every_position ? std::vector<std::pair<int, int>>{{0, -1}}
                            : ranges(position, positions_))
          for (const int u : units)
            cells[c].push_back({first, last, from, to, u});
    }
    return cells;
  }

  // To the end of a prompt, and without positions that stand for none.
  std::vector<Place> of_pair(
      const std::vector<Place>& places, const Pair& pair) const {
    std::vector<Place> out;
    for (auto place : places) {
      if (place.to < 0) place.to = static_cast<int>(pair.run.size()) - 1;
      if (pair.aligned.empty()) {
        out.push_back(place);
        continue;
      }
      for (int p = place.from; p <= place.to; ++p)
        if (pair.aligned[static_cast<size_t>(p)] >= 0)
          out.push_back(
              {place.first_layer, place.last_layer, p, p, place.unit});
    }
    return out;
  }

  Wavefront::Result together(
      size_t pair_index, const std::vector<std::vector<Place>>& places) const {
    const auto& pair = pairs_[pair_index];
    Wavefront wave{
        .model = model_,
        .runs = {{pair.run}, {pair.source}},
        .aligned = pair.aligned,
        .sites =
            {{.ids = site_.ids,
              .layout = site_.pattern ? Layout::heads : site_.layout,
              .from_pattern = site_.pattern}},
        .cells = {},
        .metric = metrics_[pair_index],
        .reference = options_.direction == Direction::denoise ? 1 : 0,
        .memory = options_.memory,
        .progress = progress(pair_index),
    };
    for (const auto& cell : places) {
      auto& [run, changes] = wave.cells.emplace_back();
      for (const auto& place : of_pair(cell, pair))
        changes.push_back(
            {.first_layer = place.first_layer + site_.shift,
             .last_layer = place.last_layer + site_.shift,
             .from = place.from,
             .to = place.to,
             .unit = place.unit,
             .source = 1});
    }
    return wave.sweep();
  }

  Progress progress(size_t pair) const {
    if (!options_.progress) return {};
    return [this, pair](std::string_view what, double done) {
      options_.progress(
          what,
          (static_cast<double>(pair) + done) /
              static_cast<double>(pairs_.size()));
    };
  }

  // One forward pass a cell.
  Wavefront::Result plainly(
      size_t pair_index, const std::vector<std::vector<Place>>& places) const {
    const auto& pair = pairs_[pair_index];
    const auto& metric = metrics_[pair_index];
    const auto report = progress(pair_index);
    std::vector<std::string> names;
    for (int i = 0; i < model_.decoder().config().n_layers; ++i)
      names.push_back(site_.name_of(i));
    auto save = names;
    save.emplace_back("logits");
    const auto source = model_.run(pair.source, {.save = save});
    const auto run = model_.run(pair.run, {.save = {"logits"}});
    const auto& clean = options_.direction == Direction::denoise ? source : run;
    std::optional<mx::array> reference;
    if (metric.needs_reference()) reference = row(clean["logits"], metric);

    Wavefront::Result result;
    result.runs = {
        read(run["logits"], pair.run, metric, reference),
        read(source["logits"], pair.source, metric, reference)};
    for (const auto& cell : places) {
      std::vector<Edit> edits;
      for (const auto& place : of_pair(cell, pair))
        for (int i = place.first_layer; i <= place.last_layer; ++i) {
          const auto& name = names[static_cast<size_t>(i)];
          edits.push_back({name, taken(place, pair, source[name])});
        }
      result.cells.push_back(read(
          model_.run(pair.run, {.save = {"logits"}, .edits = edits})["logits"],
          pair.run,
          metric,
          reference));
      if (report)
        report(
            "Patching",
            static_cast<double>(result.cells.size()) /
                static_cast<double>(places.size()));
    }
    result.computed = places.size();
    result.rows = places.size() * pair.run.size() *
                  static_cast<size_t>(model_.decoder().config().n_layers);
    return result;
  }

  // The value with the place's part as it is in `source`.
  Intervention taken(
      const Place& place, const Pair& pair, const mx::array& source) const {
    std::vector<int> to, from;
    for (int p = place.from; p <= place.to; ++p) {
      to.push_back(p);
      from.push_back(
          pair.aligned.empty() ? p : pair.aligned[static_cast<size_t>(p)]);
    }
    const int axis = site_.layout == Layout::scores ? 2 : 1;
    const mx::array rows(
        from.data(), {static_cast<int>(from.size())}, mx::int32);
    auto part = mx::take(source, rows, axis);
    auto inner = [part, unit = place.unit, this](const mx::array&) {
      if (unit < 0) return part;
      return mx::take(
          part,
          mx::array({unit}, {1}, mx::int32),
          site_.layout == Layout::scores ? 1 : 2);
    };
    if (place.unit < 0) return at_positions(to, inner);
    if (site_.heads > 0) return at_positions(to, on_heads({place.unit}, inner));
    return at_positions(to, on_neurons({place.unit}, inner));
  }

  static mx::array row(const mx::array& logits, const Readout& metric) {
    const int at = metric.position_in(logits.shape(1));
    return mx::astype(
        mx::squeeze(mx::take(logits, mx::array({at}, {1}, mx::int32), 1)),
        mx::float32);
  }

  static float read(
      const mx::array& logits,
      const std::vector<int>& ids,
      const Readout& metric,
      const std::optional<mx::array>& reference) {
    if (metric.every_position()) {
      const int n = logits.shape(1);
      const auto rows = mx::astype(
          mx::squeeze(
              mx::slice(logits, {0, 0, 0}, {1, n - 1, logits.shape(2)}), 0),
          mx::float32);
      const std::vector<int> next(ids.begin() + 1, ids.end());
      return mx::mean(metric.values(rows, reference, next)).item<float>();
    }
    auto one = mx::expand_dims(row(logits, metric), 0);
    if (const auto columns = metric.columns(); !columns.empty())
      one = mx::take(
          one,
          mx::array(
              columns.data(), {static_cast<int>(columns.size())}, mx::int32),
          1);
    return metric.values(one, reference, {}).item<float>();
  }

  const InterpretableModel& model_;
  const PatchOptions& options_;
  LayerSite site_;
  std::vector<Pair> pairs_;
  std::vector<Readout> metrics_;
  std::vector<int> layers_, positions_, units_;
  Sweep out_;
};

}  // namespace

const char* name(Axis axis) {
  switch (axis) {
    case Axis::layer:
      return "layer";
    case Axis::position:
      return "pos";
    case Axis::head:
      return "head";
    case Axis::neuron:
      break;
  }
  return "neuron";
}

std::vector<int> Sweep::shape() const {
  std::vector<int> out;
  for (const auto& axis : axes)
    out.push_back(static_cast<int>(axis.values.size()));
  return out;
}

std::vector<float> Sweep::effect() const {
  const bool denoise = direction == Direction::denoise;
  const float from = denoise ? corrupt : clean, to = denoise ? clean : corrupt;
  const float way = to - from;
  if (!(std::abs(way) > 1e-6f * std::max(std::abs(from), std::abs(to))))
    fail(
        ErrorKind::usage,
        "[Sweep] the metric is {} of the clean and {} of the corrupted run: "
        "there is no way to go between them; read the metric itself",
        clean,
        corrupt);
  auto out = metric;
  for (auto& value : out)
    value = (value - from) / way;
  return out;
}

Sweep patch(const InterpretableModel& model, const PatchOptions& options) {
  return Patcher(model, options).sweep();
}

}  // namespace mlxterp
