#include "mlxterp/analysis/attribute.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "analysis/any_model.h"
#include "analysis/gradient_tap.h"
#include "analysis/int_array.h"
#include "analysis/measured.h"
#include "analysis/pairs.h"
#include "analysis/plain_gradients.h"
#include "analysis/readout.h"
#include "analysis/sites.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlx/utils.h"
#include "trace/carried_rows.h"
#include "trace/overlay.h"
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

class Attributor {
 public:
  Attributor(const InterpretableModel& model, const AttributeOptions& options)
      : model_(model),
        decoder_(decoder_of(model)),
        options_(options),
        pairs_(make_pairs("attribute", model, of_site(""))) {
    check();
    std::set<SiteId> known;
    for (const auto& name : options.sites) {
      auto& it = sites_.emplace_back();
      it.site = layer_site(model, name);
      it.grid = make_grid("attribute", model, of_site(name), it.site, pairs_);
      it.by_unit = it.site.heads > 0 || !options.neurons.empty() ||
                   std::ranges::count(options.by, Axis::neuron) > 0;
      if (it.site.layout == Layout::scores && !options.position_map.empty())
        fail(
            ErrorKind::usage,
            "[attribute] patterns cannot be compared between prompts that do "
            "not "
            "match position by position; use z");
      std::set<int> layers;
      for (const auto& cell : it.grid.cells)
        for (const auto& place : cell)
          for (int i = place.first_layer; i <= place.last_layer; ++i)
            layers.insert(i);
      it.first = watched_.size();
      it.layers.assign(layers.begin(), layers.end());
      for (const int layer : layers) {
        watched_.push_back(model.sites().find(it.site.name_of(layer)));
        if (!known.insert(watched_.back()).second)
          fail(
              ErrorKind::usage,
              "[attribute] the site '{}' is given twice",
              printable(name));
      }
    }
    metrics_ = readouts("attribute", model, options.metric, pairs_);
  }

  std::vector<Attribution> attributions() {
    std::vector<Attribution> out;
    for (size_t s = 0; s < sites_.size(); ++s) {
      auto& sweep = out.emplace_back().sweep;
      out[s].site = options_.sites[s];
      sweep.axes = sites_[s].grid.axes;
      sweep.direction = options_.direction;
      sweep.pairs = pairs_.size();
      sweep.ids = pairs_[0].run;
      const auto cells = sites_[s].grid.cells.size();
      sweep.computed = cells * pairs_.size();
      sweep.metric.resize(cells);
      sweep.spread.resize(cells);
    }
    std::vector<std::vector<double>> sums(sites_.size()), squares;
    for (size_t s = 0; s < sites_.size(); ++s)
      sums[s].resize(out[s].sweep.cells());
    squares = sums;
    double run = 0, source = 0;
    for (size_t i = 0; i < pairs_.size(); ++i) {
      const auto parts = decoder_ ? together(i) : by_passes(i);
      for (size_t s = 0; s < sites_.size(); ++s)
        for (size_t c = 0; c < sums[s].size(); ++c) {
          const double value =
              parts.run + cell(sites_[s], c, pairs_[i], parts.rows);
          if (!std::isfinite(value))
            fail(
                ErrorKind::usage,
                "[attribute] '{}' at '{}' is {} in cell {} of pair {}; does "
                "the metric divide by zero, an edit of the model make such "
                "values, or the model overflow in this precision?",
                printable(options_.metric.name),
                printable(out[s].site),
                value,
                c,
                i);
          sums[s][c] += value;
          squares[s][c] += value * value;
        }
      run += parts.run;
      source += parts.source;
    }
    const auto pairs = static_cast<double>(pairs_.size());
    const bool denoise = options_.direction == Direction::denoise;
    for (size_t s = 0; s < sites_.size(); ++s) {
      auto& sweep = out[s].sweep;
      sweep.clean = static_cast<float>((denoise ? source : run) / pairs);
      sweep.corrupt = static_cast<float>((denoise ? run : source) / pairs);
      for (size_t c = 0; c < sums[s].size(); ++c) {
        const double mean = sums[s][c] / pairs;
        const double variance = squares[s][c] / pairs - mean * mean;
        sweep.metric[c] = static_cast<float>(mean);
        sweep.spread[c] =
            static_cast<float>(std::sqrt(std::max(0.0, variance)));
      }
    }
    return out;
  }

 private:
  struct Site {
    LayerSite site;
    Grid grid;
    bool by_unit = false;     // heads, or neurons told apart
    size_t first = 0;         // in watched_, its first layer
    std::vector<int> layers;  // that are watched, in order
  };

  // Of one pair, by what is watched: [pos, unit], summed over the rest.
  struct Parts {
    std::vector<mx::array> rows;
    double run = 0, source = 0;  // the metric
  };

  PatchOptions of_site(const std::string& site) const {
    return {
        .clean = options_.clean,
        .corrupt = options_.corrupt,
        .site = site,
        .by = options_.by,
        .metric = {},
        .direction = options_.direction,
        .layers = options_.layers,
        .positions = options_.positions,
        .heads = options_.heads,
        .neurons = options_.neurons,
        .position_map = options_.position_map};
  }

  void check() const {
    if (options_.sites.empty())
      fail(
          ErrorKind::usage,
          "[attribute] no site was given; name one, such as resid_pre");
    if (options_.steps < 1)
      fail(
          ErrorKind::usage,
          "[attribute] steps is {}; give 1, or more for integrated gradients",
          options_.steps);
    if (options_.metric.kind == Metric::Kind::rank)
      fail(
          ErrorKind::usage,
          "[attribute] a rank has no gradient; measure logit, logit_diff or "
          "log_prob");
  }

  // Zero, but differentiated by; one for all rows of the batch. Layers may
  // differ in heads and widths.
  mx::array nothing(const Site& it, SiteId watched, int length) const {
    const auto& site = it.site;
    const auto& own = model_.sites()[watched];
    const int width = own.width > 0 ? own.width : site.width;
    const int heads = own.n_heads > 0 ? own.n_heads : site.heads;
    mx::Shape shape{1, length, width};
    if (site.layout == Layout::scores)
      shape = {1, heads, length, length};
    else if (site.heads > 0)
      shape = {1, length, heads, width};
    return mx::zeros(shape, mx::float32);
  }

  // What enters layer 0: [1, pos, d_model] of the source, and of the run and of
  // the points on the way to it, [step, pos, d_model].
  // So goes what travels beside it.
  std::pair<Stream, Stream> embedded(const Pair& pair, int length) const {
    std::vector<int> ids(static_cast<size_t>(2 * length));
    std::ranges::copy(pair.source, ids.begin());
    std::ranges::copy(pair.run, ids.begin() + length);
    Stepper stepper(model_, nullptr, lengths(pair, 1));
    const auto both = stepper.embed(mx::reshape(int_array(ids), {2, length}));
    const auto one = [&](int row) {
      return Stream{
          rows(both, row, row + 1), each(stepper.carried(), [&](const auto& x) {
            return rows(x, row, row + 1);
          })};
    };
    auto source = one(0), run = one(1);
    if (options_.steps == 1) return {source, run};
    std::vector<float> shares;
    for (int k = 0; k < options_.steps; ++k)
      shares.push_back(
          static_cast<float>(k) / static_cast<float>(options_.steps));
    const mx::array share(shares.data(), {options_.steps, 1, 1});
    const auto between = [&](const mx::array& from, const mx::array& to) {
      auto by = mx::astype(share, from.dtype());
      while (by.ndim() < from.ndim())
        by = mx::expand_dims(by, -1);
      const auto way = mx::subtract(aligned(to, pair, from), from);
      return mx::add(from, mx::multiply(by, way));
    };
    Stream line{between(run.x, source.x)};
    for (const auto& [name, value] : run.carried)
      line.carried.emplace(name, between(value, source.carried.at(name)));
    return {source, line};
  }

  // Of the source, then of so many points on the way to the run.
  static PassRows lengths(const Pair& pair, int lines) {
    PassRows out;
    out.lengths.assign(
        static_cast<size_t>(lines) + 1, static_cast<int>(pair.run.size()));
    out.lengths[0] = static_cast<int>(pair.source.size());
    return out;
  }

  // Zeros for everything that is watched.
  std::vector<mx::array> nothings_of(int length) const {
    std::vector<mx::array> nothings;
    for (const auto& it : sites_)
      for (size_t i = 0; i < it.layers.size(); ++i)
        nothings.push_back(nothing(it, watched_[it.first + i], length));
    return nothings;
  }

  Parts by_passes(size_t index) const {
    const auto& pair = pairs_[index];
    std::vector<std::string> names;
    for (const auto site : watched_)
      names.push_back(model_.sites()[site].name);
    const auto zeros = nothings_of(static_cast<int>(pair.run.size()));
    const auto found = PlainGradients{
        .model = model_,
        .pair = pair,
        .metric = metrics_[index],
        .sites = names,
        .zeros = zeros,
        .steps = options_.steps,
        .clean_source = options_.direction == Direction::denoise,
        .report = [&](int step) {
          report(index, step);
        }}.compute();
    Parts parts;
    for (const auto& it : sites_)
      for (size_t i = it.first; i < it.first + it.layers.size(); ++i)
        parts.rows.push_back(
            contracted(it, found.gradients[i], found.differences[i], pair));
    mx::eval(parts.rows);
    parts.run = static_cast<double>(found.run);
    parts.source = static_cast<double>(found.source);
    return parts;
  }

  // All points of a Decoder's passes in as few passes as pay.
  Parts together(size_t index) const {
    const auto& pair = pairs_[index];
    const auto& metric = metrics_[index];
    const int length =
        static_cast<int>(std::max(pair.run.size(), pair.source.size()));
    const auto nothings = nothings_of(length);
    const auto [source, line] = embedded(pair, length);
    const int chunk = std::max(1, rows_that_pay / length);
    const bool denoise = options_.direction == Direction::denoise;
    std::optional<mx::array> reference;
    std::vector<mx::array> gradients, differences;
    Parts parts;
    for (int done = 0; done < options_.steps; done += chunk) {
      report(index, done);
      const int lines = std::min(chunk, options_.steps - done);
      const auto some = [&](const mx::array& x) {
        return rows(x, done, done + lines);
      };
      Stream batch{some(line.x), each(line.carried, some)};
      // The source runs along with the first.
      const int first = done == 0 ? 1 : 0;
      if (first)
        batch = {
            mx::concatenate({source.x, batch.x}, 0),
            concatenate({source.carried, batch.carried}, 0)};
      GradientTap tap(model_.sites().size(), watched_);
      std::optional<mx::array> of_source;
      auto [values, grads] = mx::vjp(
          [&](const std::vector<mx::array>& added) {
            tap.zeros = &added;
            auto rows_in_pass = lengths(pair, lines);
            if (!first)
              rows_in_pass.lengths.erase(rows_in_pass.lengths.begin());
            Stepper stepper(model_, &tap, rows_in_pass);
            stepper.carried() = batch.carried;
            auto x = batch.x;
            for (int i = 0; i < decoder_->config().n_layers; ++i)
              x = stepper.layer(i, x);
            if (first && metric.needs_reference()) {
              const int row = denoise ? 0 : 1;
              const auto& ids = denoise ? pair.source : pair.run;
              reference = mx::stop_gradient(logits_at_end(
                  model_,
                  rows(x, row, row + 1),
                  static_cast<int>(ids.size()),
                  metric));
            }
            if (first)
              of_source = mx::stop_gradient(measured(
                  model_, rows(x, 0, 1), pair.source, metric, reference));
            return std::vector{measured(
                model_,
                rows(x, first, first + lines),
                pair.run,
                metric,
                reference)};
          },
          nothings,
          {mx::ones({lines})});
      if (first)
        for (const auto& value : tap.values)
          differences.push_back(difference(value.value(), pair));
      if (gradients.empty())
        gradients = std::move(grads);
      else
        for (size_t i = 0; i < grads.size(); ++i)
          gradients[i] = mx::add(gradients[i], grads[i]);
      const bool last = done + lines == options_.steps;
      if (last)
        for (const auto& it : sites_)
          for (size_t i = it.first; i < it.first + it.layers.size(); ++i)
            parts.rows.push_back(
                contracted(it, gradients[i], differences[i], pair));
      auto wanted = last ? parts.rows : gradients;
      if (first) {
        wanted.push_back(values[0]);
        wanted.push_back(*of_source);
        if (!last)
          wanted.insert(wanted.end(), differences.begin(), differences.end());
        if (reference) wanted.push_back(*reference);
      }
      mx::eval(std::move(wanted));
      if (first) {
        parts.run = static_cast<double>(rows(values[0], 0, 1).item<float>());
        parts.source = pair.run == pair.source && pair.position_map.empty()
                           ? parts.run
                           : static_cast<double>(of_source->item<float>());
      }
    }
    report(index, options_.steps);
    return parts;
  }

  void report(size_t pair, int steps) const {
    if (!options_.progress) return;
    options_.progress(
        "Attributing",
        (static_cast<double>(pair) + steps / double(options_.steps)) /
            static_cast<double>(pairs_.size()));
  }

  // The source's value less the run's, of rows 0 and 1 of a batch.
  static mx::array difference(const mx::array& value, const Pair& pair) {
    const auto run = mx::astype(rows(value, 1, 2), mx::float32);
    const auto source = mx::astype(rows(value, 0, 1), mx::float32);
    return mx::subtract(aligned(source, pair, run), run);
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

  // Gradient times difference as [pos, unit], of the run's own positions.
  mx::array contracted(
      const Site& it,
      const mx::array& gradient,
      const mx::array& difference,
      const Pair& pair) const {
    auto x = mx::multiply(gradient, difference);
    if (it.by_unit && it.site.heads == 0)
      x = mx::squeeze(x, 0);
    else
      x = mx::squeeze(mx::sum(x, -1), 0);
    if (it.site.layout == Layout::scores) x = mx::transpose(x);
    if (x.ndim() == 1) x = mx::expand_dims(x, 1);
    x = rows(x, 0, static_cast<int>(pair.run.size()));
    // Where the two runs are one, nothing can differ; but of one product two
    // rows need not have the same bits.
    if (const int same = alike(pair); same > 0)
      x = mx::concatenate(
          {mx::zeros({same, x.shape(1)}, x.dtype()), rows(x, same, x.shape(0))},
          0);
    return mx::contiguous(
        mx::divide(x, mx::array(static_cast<float>(options_.steps))));
  }

  static double cell(
      const Site& it,
      size_t index,
      const Pair& pair,
      const std::vector<mx::array>& parts) {
    double sum = 0;
    for (const auto& place : of_pair(it.grid.cells[index], pair))
      for (size_t i = 0; i < it.layers.size(); ++i) {
        if (it.layers[i] < place.first_layer || it.layers[i] > place.last_layer)
          continue;
        const auto& part = parts[it.first + i];
        const int units = part.shape(1);
        const int from = std::max(place.unit, 0);
        const int to = place.unit < 0 ? units : place.unit + 1;
        const auto* data = part.data<float>();
        for (int p = place.from; p <= place.to; ++p)
          for (int u = from; u < to; ++u)
            sum += static_cast<double>(data[p * units + u]);
      }
    return sum;
  }

  const InterpretableModel& model_;
  const Decoder* decoder_;  // null: a model that runs elsewhere
  const AttributeOptions& options_;
  std::vector<Pair> pairs_;
  std::vector<Site> sites_;
  std::vector<SiteId> watched_;
  std::vector<Readout> metrics_;
};

}  // namespace

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
