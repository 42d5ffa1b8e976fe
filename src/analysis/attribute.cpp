#include "mlxterp/analysis/attribute.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>

#include "analysis/any_model.h"
#include "analysis/joint_gradients.h"
#include "analysis/pairs.h"
#include "analysis/plain_gradients.h"
#include "analysis/qk_fix.h"
#include "analysis/readout.h"
#include "analysis/sites.h"
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

bool fixes(AttributionMethod method) {
  return method == AttributionMethod::qk_fix ||
         method == AttributionMethod::atp_star;
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
      it.first = parts_;
      it.layers.assign(layers.begin(), layers.end());
      parts_ += layers.size();
      it.stream = it.site.relative.starts_with("resid_");
      it.query = is_query(it.site.relative);
      it.fixed =
          fixes(options.method) && (it.query || is_key(it.site.relative));
      for (const int layer : layers) {
        lowest_ = std::min(lowest_, layer);
        const auto own = model.sites().find(it.site.name_of(layer));
        if (!known.insert(own).second)
          fail(
              ErrorKind::usage,
              "[attribute] the site '{}' is given twice",
              printable(name));
        if (!it.fixed) {
          it.watched.push_back(index_in(watched_, own));
          continue;
        }
        auto& readers = it.readers.emplace_back();
        for (const auto& reader : qk_readers(model, it.site.relative, layer))
          readers.push_back(
              {reader.attention,
               index_in(watched_, reader.pattern),
               index_in(seen_, reader.q),
               index_in(seen_, reader.k)});
      }
    }
    check_method();
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
    // [pair][cell], what each adds to the run's metric.
    std::vector<std::vector<std::vector<double>>> added(sites_.size());
    std::vector<double> runs;
    double run = 0, source = 0;
    for (size_t i = 0; i < pairs_.size(); ++i) {
      const auto parts = decoder_ ? together(i) : by_passes(i);
      for (size_t s = 0; s < sites_.size(); ++s) {
        auto& of_pair = added[s].emplace_back();
        for (size_t c = 0; c < out[s].sweep.cells(); ++c) {
          const double value = score(sites_[s], c, pairs_[i], parts.rows);
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
    const auto pairs = static_cast<double>(pairs_.size());
    const bool denoise = options_.direction == Direction::denoise;
    const double sign = gives_sizes(options_.method) && source < run ? -1 : 1;
    for (size_t s = 0; s < sites_.size(); ++s) {
      auto& sweep = out[s].sweep;
      sweep.clean = static_cast<float>((denoise ? source : run) / pairs);
      sweep.corrupt = static_cast<float>((denoise ? run : source) / pairs);
      for (size_t c = 0; c < sweep.cells(); ++c) {
        double sum = 0, squares = 0;
        for (size_t i = 0; i < pairs_.size(); ++i) {
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
  struct Site {
    LayerSite site;
    Grid grid;
    bool by_unit = false;         // heads, or neurons told apart
    bool stream = false;          // of no layer's own
    bool query = false;           // not keys, where it is
    bool fixed = false;           // by the QK fix
    size_t first = 0;             // among the parts, its first layer
    std::vector<int> layers;      // that are watched, in order
    std::vector<size_t> watched;  // of each, unless it is fixed
    struct Reader {
      const nn::Attention* attention;
      size_t pattern;  // in watched_
      size_t q, k;     // in seen_
    };
    std::vector<std::vector<Reader>> readers;  // of each, where it is fixed
  };

  // Of one pair, by site and layer: [row, pos, unit], summed over the rest. Row
  // 0 is of the whole gradient, the others of those without a layer.
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
    if (options_.method == AttributionMethod::atp) return;
    if (!decoder_)
      fail(
          ErrorKind::usage,
          "[attribute] this model runs elsewhere: neither can its patterns be "
          "made again nor its layers be dropped; choose the method atp");
    const auto uneven = [](const Pair& pair) {
      return pair.run.size() != pair.source.size() ||
             !pair.position_map.empty();
    };
    if (fixes(options_.method) && std::ranges::any_of(pairs_, uneven))
      fail(
          ErrorKind::usage,
          "[attribute] the QK fix compares patterns, which needs prompts that "
          "match position by position; choose the method atp or grad-drop");
    if (gives_sizes(options_.method) && decoder_->config().n_layers < 2)
      fail(
          ErrorKind::usage,
          "[attribute] GradDrop leaves out one layer after the other, and this "
          "model has one; choose the method atp or qk-fix");
  }

  // Behind the sites.
  void check_method() const {
    const auto fixed = [](const Site& it) { return it.fixed; };
    if (options_.method == AttributionMethod::qk_fix &&
        std::ranges::none_of(sites_, fixed))
      fail(
          ErrorKind::usage,
          "[attribute] the QK fix is of queries and keys, and none of the "
          "sites has any; add q or k (or rot_q, rot_k), or choose the method "
          "atp");
  }

  static size_t index_in(std::vector<SiteId>& sites, SiteId site) {
    const auto found = std::ranges::find(sites, site);
    const auto index = static_cast<size_t>(found - sites.begin());
    if (found == sites.end()) sites.push_back(site);
    return index;
  }

  // Zero, but differentiated by; one for all rows of the batch. Layers may
  // differ in heads and widths.
  mx::array nothing(const LayerSite& site, SiteId watched, int length) const {
    const auto& own = model_.sites()[watched];
    const int width = own.width > 0 ? own.width : site.width;
    const int heads = own.n_heads > 0 ? own.n_heads : site.heads;
    mx::Shape shape{1, length, width};
    if (own.layout == Layout::scores)
      shape = {1, heads, length, length};
    else if (site.heads > 0)
      shape = {1, length, heads, width};
    return mx::zeros(shape, mx::float32);
  }

  // Zeros for everything that is watched.
  std::vector<mx::array> nothings_of(int length) const {
    std::vector<mx::array> nothings(watched_.size(), mx::array(0.0f));
    for (const auto& it : sites_) {
      for (const auto i : it.watched)
        nothings[i] = nothing(it.site, watched_[i], length);
      for (const auto& readers : it.readers)
        for (const auto& reader : readers)
          nothings[reader.pattern] =
              nothing(it.site, watched_[reader.pattern], length);
    }
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
          report(index, step / double(options_.steps));
        }}.compute();
    Parts parts;
    for (const auto& it : sites_)
      for (const auto i : it.watched)
        parts.rows.push_back(
            contracted(it, found.gradients[i], found.differences[i], pair));
    mx::eval(parts.rows);
    parts.run = static_cast<double>(found.run);
    parts.source = static_cast<double>(found.source);
    return parts;
  }

  Parts together(size_t index) const {
    const auto& pair = pairs_[index];
    const auto zeros = nothings_of(
        static_cast<int>(std::max(pair.run.size(), pair.source.size())));
    auto found = JointGradients{
        .model = model_,
        .pair = pair,
        .metric = metrics_[index],
        .watched = watched_,
        .zeros = zeros,
        .seen = seen_,
        .steps = options_.steps,
        .clean_source = options_.direction == Direction::denoise,
        .drop_from = gives_sizes(options_.method) ? lowest_
                                                  : decoder_->config().n_layers,
        .report = [&](double share) { report(index, share); },
        .contract =
            [&](const auto& gradients, const auto& values) {
              return parts_of(gradients, values, pair);
            }}.compute();
    return {std::move(found.parts), found.run, found.source};
  }

  std::vector<mx::array> parts_of(
      const std::vector<mx::array>& gradients,
      const JointGradients::Values& values,
      const Pair& pair) const {
    std::vector<mx::array> out;
    for (const auto& it : sites_) {
      for (const auto i : it.watched)
        out.push_back(
            contracted(it, gradients[i], values.differences[i], pair));
      for (const auto& readers : it.readers) {
        std::optional<mx::array> sum;
        for (const auto& reader : readers) {
          const auto& [q, other_q] = values.seen[reader.q];
          const auto& [k, other_k] = values.seen[reader.k];
          const auto& gradient = gradients[reader.pattern];
          const auto& attention = *reader.attention;
          const auto one = it.query
                               ? query_fix(attention, {q, k}, other_q, gradient)
                               : key_fix(attention, {q, k}, other_k, gradient);
          sum = sum ? mx::add(*sum, one) : one;
        }
        out.push_back(finished(sum.value(), pair));
      }
    }
    return out;
  }

  void report(size_t pair, double share) const {
    if (!options_.progress) return;
    options_.progress(
        "Attributing",
        (static_cast<double>(pair) + share) /
            static_cast<double>(pairs_.size()));
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
      const Site& it,
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
      const Site& it,
      size_t index,
      const Pair& pair,
      const std::vector<mx::array>& parts) const {
    if (!gives_sizes(options_.method))
      return cell(it, index, pair, parts, 0, -1);
    // Below the lowest layer that is asked for nothing is between the nodes and
    // the metric.
    const int layers = decoder_->config().n_layers;
    double sum = lowest_ * std::abs(cell(it, index, pair, parts, 0, -1));
    for (int layer = lowest_; layer < layers; ++layer)
      sum += std::abs(cell(
          it, index, pair, parts, 1 + layer - lowest_, it.stream ? -1 : layer));
    return sum / (it.stream ? layers : layers - 1);
  }

  // Of one row, without the nodes of one layer.
  static double cell(
      const Site& it,
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
  std::vector<Pair> pairs_;
  std::vector<Site> sites_;
  std::vector<SiteId> watched_, seen_;
  size_t parts_ = 0;                              // of all sites
  int lowest_ = std::numeric_limits<int>::max();  // layer of any site
  std::vector<Readout> metrics_;
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
