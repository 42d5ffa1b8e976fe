#include "mlxterp/analysis/edges.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/edges/blocks.h"
#include "analysis/edges/calibrate.h"
#include "analysis/edges/exact.h"
#include "analysis/edges/flow.h"
#include "analysis/edges/graph.h"
#include "analysis/edges/line.h"
#include "analysis/edges/means.h"
#include "analysis/edges/runs.h"
#include "analysis/pairs.h"
#include "core/fail.h"
#include "core/lanes.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"
#include "mlxterp/core/error.h"
#include "mlxterp/core/limits.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Rows of one pass beyond which a larger one is no faster.
constexpr int rows_that_pay = 1024;

// Pairs that are in work side by side.
constexpr int most_lanes = 3;

size_t size(int n) {
  return static_cast<size_t>(n);
}

// Whether these are any prompts at all, which token_ids asks for.
bool given(const InterpretableModel& model, const Inputs& prompts) {
  try {
    return !model.token_ids(prompts).empty();
  } catch (const Error&) {
    return false;
  }
}

// Throws for what can be told without a run.
void check(const InterpretableModel& model, const EdgeOptions& options) {
  model.decoder();  // or it throws
  if (model.overlay())
    fail(
        ErrorKind::usage,
        "[edges] the model has edits or attached modules, which edges do not "
        "follow; use the model without them");
  if (options.method == EdgeMethod::ifr) {
    if (options.metric.kind != Metric::Kind::none)
      fail(
          ErrorKind::usage,
          "[edges] ifr reads how one run's residual stream is made up and "
          "measures nothing; leave out the metric, {}",
          options.metric.name);
    if (given(model, options.corrupt))
      fail(
          ErrorKind::usage,
          "[edges] ifr reads the clean run alone; leave out the corrupted "
          "prompts");
    if (options.sample > 0)
      fail(
          ErrorKind::usage,
          "[edges] what an edge does is no share of a stream, as ifr's scores "
          "are; leave out sample");
  }
  const bool exact = options.method == EdgeMethod::exact;
  if (exact && options.by_position)
    fail(
        ErrorKind::usage,
        "[edges] exact runs an edge at all positions at once; add them up, "
        "or use eap or eap-ig");
  if (!(options.sample >= 0 && options.sample <= 1))
    fail(
        ErrorKind::usage,
        "[edges] sample is {}; give a share of the edges, 0 to 1",
        options.sample);
  if (options.sample > 0 && (exact || options.by_position))
    fail(
        ErrorKind::usage,
        "[edges] a sample says how far an estimate is off whose positions "
        "are added up; leave out {}",
        exact ? "the method exact" : "by_position");
  if (options.metric.kind == Metric::Kind::rank && !exact)
    fail(
        ErrorKind::usage,
        "[edges] a rank has no gradient; measure logit, logit_diff or "
        "log_prob");
  if (options.steps < 1 || options.steps > limits::line_steps)
    fail(
        ErrorKind::usage,
        "[edges] steps is {}; give 1 to {}",
        options.steps,
        limits::line_steps);
}

class EdgeScorer {
 public:
  EdgeScorer(const InterpretableModel& model, const EdgeOptions& options)
      : model_(model),
        options_(options),
        graph_(edge_graph(model, options.ungrouped)),
        runner_(model, graph_, options.ungrouped),
        pairs_(pairs_of(model, options)),
        metrics_(readouts("edges", model, options.metric, pairs_)) {
    for (size_t i = 1; options.by_position && i < pairs_.size(); ++i)
      if (pairs_[i].run.size() != pairs_[0].run.size())
        fail(
            ErrorKind::usage,
            "[edges] pair {} has {} tokens and pair 0 has {}: their positions "
            "cannot be averaged; add them up, or give pairs of one length",
            i,
            pairs_[i].run.size(),
            pairs_[0].run.size());
    if (options.by_position) positions_ = pairs_[0].run.size();
  }

  EdgeScores scores() {
    const size_t cells = std::max(positions_, size_t{1}) *
                         graph_.sources.size() * graph_.destinations.size();
    sums_.assign(cells, 0);
    squares_.assign(cells, 0);
    draw();
    double base = 0, other = 0;
    const bool denoise = options_.direction == Direction::denoise;
    std::vector<Started> started(pairs_.size());
    // One pair beside the other, where nothing is evaluated on the way.
    Lanes(in_one_go() ? most_lanes : 1)
        .each(
            pairs_.size(),
            [&](size_t i) { return start(i, started[i]); },
            [&](size_t i, std::vector<mx::array>& values) {
              base += static_cast<double>(values[0].item<float>());
              other += static_cast<double>(values[1].item<float>());
              finish(i, started[i]);
              started[i] = {};
            });
    report(pairs_.size(), 0);
    EdgeScores out{
        .sources = graph_.sources, .destinations = graph_.destinations};
    out.positions = static_cast<int>(positions_);
    const auto n = static_cast<double>(pairs_.size());
    out.clean = static_cast<float>((denoise ? other : base) / n);
    out.corrupt = static_cast<float>((denoise ? base : other) / n);
    out.direction = options_.direction;
    out.pairs = pairs_.size();
    out.ids = pairs_[0].run;
    put_means(out, sums_, squares_);
    put_errors(out);
    return out;
  }

 private:
  static std::vector<Pair> pairs_of(
      const InterpretableModel& model, const EdgeOptions& options) {
    const auto clean = model.token_ids(options.clean);
    const auto corrupt = model.token_ids(options.corrupt);
    for (size_t i = 0; i < std::min(clean.size(), corrupt.size()); ++i)
      if (clean[i].size() != corrupt[i].size())
        fail(
            ErrorKind::usage,
            "[edges] pair {}: the clean prompt has {} tokens, the corrupted "
            "one {}; make them equally long",
            i,
            clean[i].size(),
            corrupt[i].size());
    return make_pairs(
        "edges",
        model,
        {.clean = clean,
         .corrupt = corrupt,
         .metric = {},
         .direction = options.direction});
  }

  // The edges that are run beside an estimate.
  void draw() {
    if (options_.sample == 0) return;
    chosen_ = drawn_edges(graph_, options_.sample, options_.seed);
    exact_.assign(chosen_.size(), 0);
  }

  void put_errors(EdgeScores& out) const {
    if (chosen_.empty()) return;
    out.exact.assign(
        out.scores.size(), std::numeric_limits<float>::quiet_NaN());
    for (size_t i = 0; i < chosen_.size(); ++i)
      if (chosen_[i])
        out.exact[i] =
            static_cast<float>(exact_[i] / static_cast<double>(pairs_.size()));
    calibrate(out, options_.seed);
  }

  void run_each(size_t pair, const EdgeRuns& runs) {
    ExactEdges{
        .model = model_,
        .graph = graph_,
        .ungrouped = options_.ungrouped,
        .pair = pairs_[pair],
        .runs = runs,
        .metric = metrics_[pair],
        .denoise = options_.direction == Direction::denoise,
        .found =
            [&](size_t source, size_t destination, double change) {
              if (chosen_.empty())
                add(source, destination, 0, change, pair);
              else
                exact_[source * graph_.destinations.size() + destination] +=
                    change;
            },
        .chosen = chosen_,
        .report = [&](double done) { report(pair, done); }}
        .sweep();
  }

  // Of a pair, what its scores are made of.
  struct Started {
    std::optional<EdgeRuns> runs;
    std::vector<EdgeBlock> blocks;
  };

  bool by_points() const {
    return options_.method != EdgeMethod::exact &&
           options_.method != EdgeMethod::eap_ig_activations;
  }

  // Whether all that a pair takes can be asked for at once.
  bool in_one_go() const {
    size_t longest = 0;
    for (const auto& pair : pairs_)
      longest = std::max(longest, pair.run.size());
    return by_points() && chosen_.empty() &&
           longest * line_shares(options_).size() <= size(rows_that_pay);
  }

  // Both runs of a pair, and its scores where they are made of gradients along
  // one line for all; what is to be evaluated of them.
  std::vector<mx::array> start(size_t pair, Started& it) const {
    report(pair, 0);
    const bool denoise = options_.direction == Direction::denoise;
    const auto& runs =
        it.runs.emplace(runner_.both(pairs_[pair], metrics_[pair], denoise));
    std::vector<mx::array> wanted = {runs.base, runs.other, runs.differences};
    if (runs.reference) wanted.push_back(*runs.reference);
    if (by_points() && differ(pair)) {
      it.blocks = blocks(pair, runs);
      for (const auto& block : it.blocks)
        wanted.push_back(block.scores);
    }
    return wanted;
  }

  void finish(size_t pair, const Started& it) {
    const auto& runs = *it.runs;
    if (!differ(pair)) return;
    if (options_.method == EdgeMethod::eap_ig_activations)
      for (const auto& writer : graph_.writers) {
        const auto some = blocks(pair, runs, &writer);
        std::vector<mx::array> wanted;
        for (const auto& block : some)
          wanted.push_back(block.scores);
        mx::eval(std::move(wanted));
        for (const auto& block : some)
          add(block, runs.from, pair);
      }
    for (const auto& block : it.blocks)
      add(block, runs.from, pair);
    if (options_.method == EdgeMethod::exact || !chosen_.empty())
      run_each(pair, runs);
  }

  // Of two runs that are one nothing differs.
  bool differ(size_t pair) const {
    return pairs_[pair].run != pairs_[pair].source;
  }

  // `own`: what moves along the line, whose edges alone are scored; null: the
  // embedding moves, and all are. Lazy, unless the points take several passes.
  std::vector<EdgeBlock> blocks(
      size_t pair,
      const EdgeRuns& runs,
      const EdgeWriter* own = nullptr) const {
    const bool shifts = own && own->kind != EdgeWriter::Kind::input;
    const auto all = line_shares(options_);
    const int length = static_cast<int>(pairs_[pair].run.size());
    const auto chunk = size(std::max(1, rows_that_pay / length));
    std::vector<mx::array> gradients;
    for (size_t done = 0; done < all.size(); done += chunk) {
      const double part =
          static_cast<double>(done) / static_cast<double>(all.size());
      report(
          pair,
          own ? (own->first + part * own->count) /
                    static_cast<double>(graph_.sources.size())
              : part);
      const std::vector<float> some(
          all.begin() + static_cast<long>(done),
          all.begin() + static_cast<long>(std::min(done + chunk, all.size())));
      auto more = runner_.gradients(
          points_between(
              runs.embedded, shifts ? std::vector<float>(some.size()) : some),
          pairs_[pair].run,
          metrics_[pair],
          runs.reference,
          runs.from,
          shifts ? std::optional(shift(runs, *own, some, length))
                 : std::nullopt);
      for (size_t i = 0; i < more.size() && !gradients.empty(); ++i)
        more[i] = mx::add(gradients[i], more[i]);
      gradients = std::move(more);
      if (all.size() > chunk) mx::eval(gradients);
    }
    return contracted(
        graph_,
        runs,
        gradients,
        static_cast<float>(all.size()),
        own ? own->first : 0,
        own ? own->first + own->count : static_cast<int>(graph_.sources.size()),
        positions_ > 0);
  }

  // So far along the line of what a writer's sources add.
  EdgeShift shift(
      const EdgeRuns& runs,
      const EdgeWriter& own,
      const std::vector<float>& shares,
      int length) const {
    const auto& d = runs.differences;
    auto change = mx::sum(
        mx::slice(
            d,
            {own.first, 0, 0},
            {own.first + own.count, d.shape(1), d.shape(2)}),
        0);
    const float factor = graph_.factors[size(own.layer)];
    if (factor != 1.0f) change = mx::multiply(change, mx::array(factor));
    change = mx::pad(
        change,
        std::vector<int>{0},
        mx::Shape{length - d.shape(1)},
        mx::Shape{0});
    const mx::array by(shares.data(), {static_cast<int>(shares.size()), 1, 1});
    return {own.added, mx::multiply(by, mx::expand_dims(change, 0))};
  }

  void add(const EdgeBlock& block, int from, size_t pair) {
    const auto columns = size(block.scores.shape(-1));
    const auto sources = size(block.sources);
    const auto* data = block.scores.data<float>();
    for (size_t i = 0; i < block.scores.size(); ++i) {
      const auto source = size(block.start) + i / columns % sources;
      const auto position =
          positions_ > 0 ? i / columns / sources + size(from) : 0;
      const auto destination = size(block.first) + i % columns;
      add(source, destination, position, static_cast<double>(data[i]), pair);
    }
  }

  void add(
      size_t source,
      size_t destination,
      size_t position,
      double value,
      size_t pair) {
    if (!std::isfinite(value))
      fail(
          ErrorKind::usage,
          "[edges] the score of {} -> {} is {} in pair {}; does the metric "
          "divide by zero, or the model overflow in this precision?",
          graph_.sources[source].name,
          graph_.destinations[destination].name,
          value,
          pair);
    const auto cell = (position * graph_.sources.size() + source) *
                          graph_.destinations.size() +
                      destination;
    sums_[cell] += value;
    squares_[cell] += value * value;
  }

  void report(size_t pair, double share) const {
    if (!options_.progress) return;
    options_.progress(
        "Scoring edges",
        (static_cast<double>(pair) + share) /
            static_cast<double>(pairs_.size()));
  }

  const InterpretableModel& model_;
  const EdgeOptions& options_;
  EdgeGraph graph_;
  EdgeRunner runner_;
  std::vector<Pair> pairs_;
  std::vector<Readout> metrics_;
  size_t positions_ = 0;
  std::vector<double> sums_, squares_;
  std::vector<bool> chosen_;   // [source, destination]; empty: no sample
  std::vector<double> exact_;  // likewise, added up over pairs
};

}  // namespace

size_t EdgeScores::edges() const {
  size_t n = 0;
  for (const auto& destination : destinations)
    n += size(destination.before);
  return n;
}

std::vector<size_t> EdgeScores::strongest(size_t count) const {
  std::vector<size_t> order;
  for (size_t i = 0; i < scores.size(); ++i)
    if (!std::isnan(scores[i])) order.push_back(i);
  count = std::min(count, order.size());
  const auto larger = [&](size_t a, size_t b) {
    const float x = std::abs(scores[a]), y = std::abs(scores[b]);
    return x != y ? x > y : a < b;
  };
  std::partial_sort(
      order.begin(),
      order.begin() + static_cast<long>(count),
      order.end(),
      larger);
  order.resize(count);
  return order;
}

EdgeScores edges(const InterpretableModel& model, const EdgeOptions& options) {
  check(model, options);
  if (options.method == EdgeMethod::ifr)
    return information_flow(
        model, options, edge_graph(model, options.ungrouped));
  return EdgeScorer(model, options).scores();
}

}  // namespace mlxterp
