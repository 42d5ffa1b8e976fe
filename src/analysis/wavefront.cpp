#include "analysis/wavefront.h"

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <tuple>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/stream.h"
#include "mlx/transforms.h"
#include "mlx/utils.h"
#include "trace/stepper.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

// Waits, when it goes, for all that this thread has begun to evaluate.
struct Awaited {
  Awaited() = default;
  Awaited(const Awaited&) = delete;
  Awaited& operator=(const Awaited&) = delete;
  ~Awaited() {
    try {
      mx::synchronize();
    } catch (...) {
      // A sweep that succeeds has read every number by now. One that fails
      // has an error on its way to the caller: this is part of the same.
    }
  }
};

using Change = Wavefront::Change;

// Rows beyond which a larger product is no faster, by device.
constexpr size_t rows_that_pay_cpu = 2048;
constexpr size_t rows_that_pay_gpu = 32768;
// On a GPU few large products beat many exact ones: cells that begin within
// as many positions are given the rows of the first.
constexpr int positions_together_gpu = 8;
constexpr size_t logits_budget = size_t{256} << 20;

bool on_gpu() {
  return mx::default_device() == mx::Device::gpu;
}

mx::array ints(const std::vector<int>& values) {
  return mx::array(values.data(), {static_cast<int>(values.size())}, mx::int32);
}

size_t size(int n) {
  return static_cast<size_t>(n);
}

mx::Shape first_row(const mx::array& x) {
  auto shape = x.shape();
  shape[0] = 1;
  return shape;
}

// A cell with what is left of it after all that changes nothing.
struct Plan {
  size_t cell;
  int run;
  int first;  // position
  int join;   // layer
  std::vector<Change> changes;
};

// Rows of the pack that a site's value is replaced in, one layer.
struct Replacement {
  std::vector<int> rows, units;                     // unit -1: all
  std::vector<int> sources;                         // rows of the pack
  std::vector<int> given_rows, given_units, given;  // and of what is given
  struct Mixed {
    int row, unit, run, source, position;
    int cell;  // that travels, where its v is its own by now; -1: the run's
  };
  std::vector<Mixed> mixed;  // from the pattern of another run
};

class Walk final : Observer {
 public:
  Walk(const Wavefront& wave, const std::vector<int>& run_rows)
      : wave_(wave),
        decoder_(wave.model.decoder()),
        sites_(wave.model.sites()),
        run_rows_(run_rows) {
    const auto* overlay = wave.model.overlay();
    whole_ = overlay && overlay->reach() == Overlay::Reach::sequence;
    whole_head_ = whole_ && Stepper::edits_head(wave.model);
  }

  // Runs the cells of one chunk, which start at the first one's layer with the
  // runs' residual stream there. Of the stream at `next` a copy is left.
  void go(
      const std::vector<Plan>& plans,
      size_t begin,
      size_t end,
      int start,
      mx::array& stream,
      int next,
      const std::function<void(int layer, size_t rows)>& done) {
    const int layers = decoder_.config().n_layers;
    packed_ = nn::PackedBatch();
    for (size_t i = 0; i < wave_.runs.size(); ++i) {
      const int length = length_of(static_cast<int>(i));
      packed_.sequences.push_back({run_rows_[i], length, 0, run_rows_[i]});
      packed_.longest = std::max(packed_.longest, length);
    }
    travelling_.clear();
    kept_.clear();
    auto x = stream;
    std::optional<mx::array> left;
    if (next == start) left = x;
    size_t at = begin;
    bool all_kept = false;
    // Whether something is replaced that leaves the last layer.
    const bool leaves = std::any_of(
        plans.begin() + static_cast<long>(begin),
        plans.begin() + static_cast<long>(end),
        [&](const Plan& plan) {
          return std::ranges::any_of(plan.changes, [&](const Change& change) {
            return change.last_layer >= layers;
          });
        });
    for (int layer = start; layer < layers; ++layer) {
      if (layer == next && layer > start)
        left = mx::slice(x, {0, 0, 0}, {1, runs_end(), x.shape(2)});
      at = join(plans, at, end, layer, x);
      plan(layer);
      std::optional<mx::array> last;
      const bool is_last = layer + 1 == layers;
      const bool trimmed =
          is_last && !leaves && !all_rows() && !whole_ && !late();
      if (trimmed) last = ints(metric_rows());
      layer_ = layer;
      seen_ = {};
      x = Stepper(wave_.model, this, rows())
              .layer(
                  layer,
                  x,
                  std::make_shared<const nn::PackedBatch>(packed_),
                  last);
      all_kept = trimmed;
      // Evaluated as it goes, so that what it took is free again: by then,
      // where memory is given, as MLX allocates ahead of what it computes.
      left ? mx::async_eval(x, *left) : mx::async_eval(x);
      if (wave_.memory > 0) x.eval();
      done(layer, size(packed_.rows()));
    }
    if (leaves) {
      join(plans, at, end, layers, x);
      plan(layers);
      layer_ = layers;
      x = at_stream(x);
    }
    if (!all_kept && !all_rows()) x = mx::take(x, ints(metric_rows()), 1);
    out_ = x;
    if (left) stream = *left;
  }

  // The metric's rows, in the order of metric_rows(), [1, row, d_model]; all
  // where every row is read.
  const mx::array& out() const { return *out_; }

  // Whether the rows of out() are all that travelled.
  bool all_rows() const { return wave_.metric.every_position() || whole_head_; }

  // Whether what stands must see whole sequences to make logits of them.
  bool whole_head() const { return whole_head_; }

  // How the rows of a layer lie, for what stands.
  PassRows rows() const {
    PassRows out;
    if (!wave_.model.overlay()) return out;
    const auto last = metric_rows();
    for (size_t i = 0; i < packed_.sequences.size(); ++i) {
      const auto& it = packed_.sequences[i];
      const int total = it.first + it.length;
      out.packed.push_back({it.row, it.length, it.first, total});
      out.kept.push_back(
          {static_cast<int>(i), 1, last[i] - it.row + it.first, total});
    }
    return out;
  }

  // Of each run and then each cell that travels, the last row read.
  std::vector<int> metric_rows() const {
    std::vector<int> rows;
    for (const auto& it : packed_.sequences) {
      const int length = it.first + it.length;
      rows.push_back(it.row + wave_.metric.position_in(length) - it.first);
    }
    return rows;
  }

  const nn::PackedBatch& packed() const { return packed_; }
  /** Behind the runs, whose sequences the others are. */
  const std::vector<const Plan*>& travelling() const { return travelling_; }

  /** What was kept of the cells of the last go(). */
  std::vector<Wavefront::Kept>& kept() { return kept_; }

  mx::array at(SiteId site, mx::array value) override {
    if (const auto found = replace_.find(site); found != replace_.end())
      value = replaced(found->second, site, std::move(value));
    if (std::ranges::find(wave_.keep, site) != wave_.keep.end())
      keep(site, value);
    if (mixes_) see(site, value);
    return value;
  }

  bool edits(SiteId site) const override {
    return replace_.find(site) != replace_.end();
  }

  void offer(SiteId site, std::function<mx::array()> make) override {
    if (!mixes_) return;
    const auto& attn = attention();
    if (site == attn.rot_q_site() || site == attn.rot_k_site())
      see(site, make());
  }

 private:
  // What a layer's attention read, for z made of another run's pattern.
  struct Seen {
    std::optional<mx::array> rot_q, rot_k, v;
    /** Of each run, where something edits it. */
    std::vector<mx::array> patterns;
  };

  const nn::Attention& attention() const {
    return decoder_.layers[size(layer_)]->attn;
  }

  void see(SiteId site, const mx::array& value) {
    const auto& attn = attention();
    if (site == attn.rot_q_site()) seen_.rot_q = value;
    if (site == attn.rot_k_site()) seen_.rot_k = value;
    if (site == attn.v_site()) seen_.v = value;
    if (site == attn.pattern_site() &&
        seen_.patterns.size() < wave_.runs.size())
      seen_.patterns.push_back(value);
  }

  int length_of(int run) const {
    return static_cast<int>(wave_.runs[size(run)].ids.size());
  }

  int runs_end() const {
    return run_rows_.back() + length_of(static_cast<int>(run_rows_.size()) - 1);
  }

  int aligned(int position) const {
    return wave_.aligned.empty() ? position : wave_.aligned[size(position)];
  }

  // Adds the cells that begin at this layer. Those that begin at the same
  // position lie together, so that attention can take them as one batch.
  size_t join(
      const std::vector<Plan>& plans,
      size_t at,
      size_t end,
      int layer,
      mx::array& x) {
    if (at == end || plans[at].join != layer) return at;
    const size_t runs = wave_.runs.size();
    std::vector<std::pair<const Plan*, int>> all;  // and where its rows are
    for (size_t i = 0; i < travelling_.size(); ++i)
      all.emplace_back(travelling_[i], packed_.sequences[runs + i].row);
    for (; at < end && plans[at].join == layer; ++at)
      all.emplace_back(&plans[at], -1);
    std::ranges::stable_sort(all, {}, [](const auto& cell) {
      return std::pair(cell.first->run, cell.first->first);
    });
    std::vector<int> rows(size(runs_end()));
    std::iota(rows.begin(), rows.end(), 0);
    packed_.sequences.resize(runs);
    travelling_.clear();
    for (const auto& [plan, row] : all) {
      const int run = run_rows_[size(plan->run)];
      const int length = length_of(plan->run) - plan->first;
      const auto begin = rows.size();
      for (int i = 0; i < length; ++i)
        rows.push_back(row < 0 ? run + plan->first + i : row + i);
      if (row < 0)
        for (const auto& change : plan->changes)
          if (taken(*plan, change, layer))
            for (int p = change.from; p <= change.to; ++p)
              rows[begin + size(p - plan->first)] =
                  run_rows_[size(change.source)] + aligned(p);
      packed_.sequences.push_back(
          {static_cast<int>(begin), length, plan->first, run});
      travelling_.push_back(plan);
    }
    x = mx::take(x, ints(rows), 1);
    return at;
  }

  // Whether a change is made by taking other rows of the stream when the cell
  // begins, rather than by replacing values.
  bool taken(const Plan& plan, const Change& change, int layer) const {
    const auto& ids = wave_.sites[change.site].ids;
    const bool stream = size(layer) >= ids.size() || plain_stream(layer, ids);
    return stream && plan.join == layer && change.first_layer == layer &&
           change.unit < 0 && change.source >= 0 && change.source != plan.run;
  }

  // Whether the ids are those of what enters the layer, as it comes.
  bool plain_stream(int layer, const std::vector<SiteId>& ids) const {
    const auto enters = decoder_.layers[size(layer)]->input_site();
    const auto* overlay = wave_.model.overlay();
    return ids[size(layer)] == enters && !(overlay && overlay->edits(enters));
  }

  void keep(SiteId site, const mx::array& value) {
    const size_t runs = wave_.runs.size();
    for (size_t i = 0; i < travelling_.size(); ++i) {
      const auto& it = packed_.sequences[runs + i];
      auto from = mx::Shape(value.ndim(), 0), to = value.shape();
      from[1] = it.row;
      to[1] = it.row + it.length;
      kept_.push_back(
          {travelling_[i]->cell,
           site,
           it.first,
           mx::squeeze(mx::slice(value, from, to), 0)});
    }
  }

  // What is to be replaced at the sites of one layer.
  void plan(int layer) {
    replace_.clear();
    mixes_ = false;
    const size_t runs = wave_.runs.size();
    for (size_t i = 0; i < travelling_.size(); ++i) {
      const auto& it = packed_.sequences[runs + i];
      for (const auto& change : travelling_[i]->changes) {
        if (layer < change.first_layer || layer > change.last_layer) continue;
        if (taken(*travelling_[i], change, layer)) continue;
        const auto& site = wave_.sites[change.site];
        const bool beyond = size(layer) >= site.ids.size();
        if (!beyond && site.ids[size(layer)] < 0) continue;
        auto& replacement = replace_[beyond ? -1 : site.ids[size(layer)]];
        given_[beyond ? -1 : site.ids[size(layer)]] = change.site;
        for (int p = std::max(change.from, it.first); p <= change.to; ++p) {
          const int row = it.row + p - it.first;
          if (site.from_pattern && change.source >= 0) {
            const bool own_v = layer > travelling_[i]->join;
            replacement.mixed.push_back(
                {row,
                 change.unit,
                 travelling_[i]->run,
                 change.source,
                 p,
                 own_v ? static_cast<int>(i) : -1});
          } else if (change.source < 0) {
            replacement.given_rows.push_back(row);
            replacement.given_units.push_back(change.unit);
            replacement.given.push_back(change.given_row + p);
          } else {
            const bool own = change.source == travelling_[i]->run;
            replacement.rows.push_back(row);
            replacement.units.push_back(change.unit);
            replacement.sources.push_back(
                run_rows_[size(change.source)] + (own ? p : aligned(p)));
          }
        }
        mixes_ |= site.from_pattern;
      }
    }
  }

  // Whether something is replaced behind attention, in rows that would not go
  // on.
  bool late() const {
    return std::ranges::any_of(replace_, [&](const auto& entry) {
      return entry.first >= 0 && sites_[entry.first].stage == Stage::after;
    });
  }

  mx::array at_stream(mx::array x) {
    const auto found = replace_.find(-1);
    return found == replace_.end() ? x
                                   : replaced(found->second, -1, std::move(x));
  }

  // `value` [1, row, ...] with rows, or units of rows, of other values.
  mx::array replaced(const Replacement& by, SiteId id, mx::array value) const {
    const auto& site = wave_.sites[given_.at(id)];
    const int rows = value.shape(1);
    const bool heads = site.layout == Layout::heads;
    const auto whole = [](const std::vector<int>& units) {
      return std::ranges::all_of(units, [](int unit) { return unit < 0; });
    };
    const auto set = [&](const std::vector<int>& to,
                         const std::vector<int>& units,
                         const std::vector<int>& from,
                         const mx::array& source) {
      if (to.empty()) return;
      const int n = whole(units) ? 1 : heads ? value.shape(2) : value.shape(-1);
      const auto flat = mx::reshape(source, {source.shape(0) * n, -1});
      std::vector<int> to_rows, to_units, places;
      for (size_t i = 0; i < to.size(); ++i) {
        const bool all = units[i] < 0;
        for (int u = all ? 0 : units[i]; u < (all ? n : units[i] + 1); ++u) {
          to_rows.push_back(to[i]);
          to_units.push_back(u);
          places.push_back(from[i] * n + u);
        }
      }
      const auto updates = mx::reshape(
          mx::astype(mx::take(flat, ints(places), 0), value.dtype()),
          {static_cast<int>(places.size()), 1, 1, flat.shape(1)});
      const auto shape = value.shape();
      value = mx::reshape(
          mx::scatter(
              mx::reshape(value, {rows, n, -1}),
              {ints(to_rows), ints(to_units)},
              updates,
              {0, 1}),
          shape);
    };
    const auto original = mx::flatten(value, 0, 1);
    set(by.rows, by.units, by.sources, original);
    if (!by.given_rows.empty() && site.zero)
      set(by.given_rows,
          by.given_units,
          std::vector<int>(by.given_rows.size(), 0),
          mx::zeros_like(mx::slice(
              original, mx::Shape(original.ndim(), 0), first_row(original))));
    else if (!by.given_rows.empty())
      set(by.given_rows, by.given_units, by.given, site.given[size(layer_)]);
    if (!by.mixed.empty()) {
      const auto [made, where] = mixed(by.mixed);
      std::vector<int> to, units;
      for (const auto& it : by.mixed) {
        to.push_back(it.row);
        units.push_back(it.unit);
      }
      set(to, units, where, made);
    }
    return value;
  }

  // z as it were if runs attended as others do: rows, and where each one asked
  // for is.
  std::pair<mx::array, std::vector<int>> mixed(
      const std::vector<Replacement::Mixed>& asked) const {
    // By run, source and cell.
    std::map<std::tuple<int, int, int>, int> begins;
    std::vector<mx::array> parts;
    int rows = 0;
    std::vector<int> where;
    for (const auto& it : asked) {
      const auto [found, fresh] =
          begins.try_emplace({it.run, it.source, it.cell}, rows);
      if (fresh) {
        parts.push_back(mix(it.run, it.source, it.cell));
        rows += parts.back().shape(0);
      }
      where.push_back(found->second + it.position);
    }
    return {
        parts.size() == 1 ? parts[0] : mx::concatenate(parts, 0),
        std::move(where)};
  }

  // [pos, head, d_head], of a run's v or a cell's own.
  mx::array mix(int run, int source, int cell) const {
    const auto rows = [](const mx::array& x, int first, int n) {
      auto from = mx::Shape(4, 0), to = x.shape();
      from[1] = first;
      to[1] = first + n;
      return mx::slice(x, from, to);
    };
    // Offered with positions before heads.
    const auto turned = [&](const mx::array& x) {
      return mx::transpose(
          rows(x, run_rows_[size(source)], length_of(source)), {0, 2, 1, 3});
    };
    const auto own_v = [&](const mx::array& x) {
      if (cell < 0) return rows(x, run_rows_[size(run)], length_of(run));
      const auto& it = packed_.sequences[wave_.runs.size() + size(cell)];
      const auto own = rows(x, it.row, it.length);
      return it.first == 0
                 ? own
                 : mx::concatenate({rows(x, it.prefix_row, it.first), own}, 1);
    };
    const auto pattern =
        seen_.patterns.empty()
            ? attention().pattern(turned(*seen_.rot_q), turned(*seen_.rot_k))
            : seen_.patterns[size(source)];
    auto v = mx::transpose(own_v(*seen_.v), {0, 2, 1, 3});
    v = mx::repeat(v, pattern.shape(1) / v.shape(1), 1);
    auto z = mx::transpose(mx::matmul(pattern, v), {0, 2, 1, 3});
    // What stands at z edits this one, too.
    if (const auto* overlay = wave_.model.overlay())
      z = Standing(*overlay, sites_, nullptr, {.lengths = {length_of(run)}})
              .at(attention().z_site(), z);
    return mx::squeeze(z, 0);
  }

  const Wavefront& wave_;
  const Decoder& decoder_;
  const SiteCatalog& sites_;
  const std::vector<int>& run_rows_;
  nn::PackedBatch packed_;
  std::vector<const Plan*> travelling_;
  std::map<SiteId, Replacement> replace_;
  std::map<SiteId, size_t> given_;
  bool mixes_ = false;
  Seen seen_;
  bool whole_ = false;       // what stands must see whole sequences,
  bool whole_head_ = false;  // also behind the last layer
  std::vector<Wavefront::Kept> kept_;
  std::optional<mx::array> out_;
  int layer_ = 0;
};

// How many leading positions two runs share.
int shared(const Wavefront::Run& a, const Wavefront::Run& b) {
  const auto n = std::min(a.ids.size(), b.ids.size());
  const auto differ =
      std::mismatch(
          a.ids.begin(), a.ids.begin() + static_cast<long>(n), b.ids.begin())
          .first -
      a.ids.begin();
  return std::min({static_cast<int>(differ), a.differs_from, b.differs_from});
}

class Sweeper {
 public:
  explicit Sweeper(const Wavefront& wave)
      : wave_(wave),
        decoder_(wave.model.decoder()),
        layers_(decoder_.config().n_layers) {
    int row = 0;
    for (const auto& run : wave.runs) {
      run_rows_.push_back(row);
      row += static_cast<int>(run.ids.size());
    }
    runs_end_ = row;
  }

  Wavefront::Result sweep() {
    make_plans();
    result_.runs.assign(wave_.runs.size(), 0);
    result_.cells.assign(wave_.cells.size(), 0);
    result_.computed = plans_.size();

    std::vector<mx::array> embedded;
    for (const auto& run : wave_.runs)
      embedded.push_back(
          run.embedded ? *run.embedded
                       : Stepper(
                             wave_.model,
                             nullptr,
                             {.lengths = {static_cast<int>(run.ids.size())}})
                             .embed(mx::expand_dims(ints(run.ids), 0)));
    auto stream =
        embedded.size() == 1 ? embedded[0] : mx::concatenate(embedded, 1);

    const size_t budget = rows_allowed(stream.dtype());
    double total = 0, so_far = 0;  // rows times layers
    for (const auto& plan : plans_)
      total += static_cast<double>(rows_of(plan)) * (layers_ - plan.join);
    total += static_cast<double>(runs_end_) * layers_;

    // An error leaves layers that are still being evaluated: a process that
    // ends then would take the memory they work in from under them.
    const Awaited awaited;
    Walk walk(wave_, run_rows_);
    int start = 0;
    size_t begin = 0;
    do {
      size_t end = begin, rows = size(runs_end_);
      while (end < plans_.size() && rows + rows_of(plans_[end]) <= budget)
        rows += rows_of(plans_[end++]);
      if (end == begin && end < plans_.size())
        fail(
            ErrorKind::usage,
            "[patch] one cell takes {} rows of {} positions, and the memory "
            "given holds {}; give at least {:.0f} MB",
            rows_of(plans_[end]),
            runs_end_,
            budget,
            std::ceil(
                static_cast<double>(
                    (size(runs_end_) + rows_of(plans_[end])) *
                    bytes_of_row(stream.dtype())) /
                1e6));
      const int next =
          end < plans_.size() ? std::min(plans_[end].join, layers_) : -1;
      walk.go(
          plans_,
          begin,
          end,
          start,
          stream,
          next == layers_ ? layers_ - 1 : next,
          [&](int, size_t travelling) {
            so_far += static_cast<double>(travelling);
            result_.rows += travelling;
            if (wave_.progress)
              wave_.progress(
                  "Patching", std::min(1.0, so_far / std::max(total, 1.0)));
          });
      read(walk);
      for (auto& kept : walk.kept()) {
        kept.value.eval();
        result_.kept.push_back(std::move(kept));
      }
      start = next == layers_ ? layers_ - 1 : next;
      begin = end;
    } while (begin < plans_.size());
    if (wave_.progress) wave_.progress("Patching", 1.0);

    for (size_t i = 0; i < wave_.cells.size(); ++i)
      if (!planned_[i])
        result_.cells[i] = result_.runs[size(wave_.cells[i].run)];
    return std::move(result_);
  }

 private:
  size_t rows_of(const Plan& plan) const {
    return wave_.runs[size(plan.run)].ids.size() - size(plan.first);
  }

  size_t bytes_of_row(mx::Dtype dtype) const {
    const auto& c = decoder_.config();
    const int experts = c.moe ? c.moe->top_k : 0;
    const auto d_mlp = static_cast<size_t>(
        std::max(c.d_mlp, c.moe ? experts * c.moe->d_mlp : 0));
    size_t longest = 0;
    for (const auto& run : wave_.runs)
      longest = std::max(longest, run.ids.size());
    const size_t heads = size(c.n_heads) * size(c.d_head);
    // The stream in three copies, q, k, v, z, three of the MLP; and scores,
    // where attention is explicit.
    return dtype.size() * (6 * size(c.d_model) + 6 * heads + 3 * d_mlp +
                           3 * size(c.n_heads) * longest);
  }

  size_t rows_allowed(mx::Dtype dtype) const {
    const size_t pays = on_gpu() ? rows_that_pay_gpu : rows_that_pay_cpu;
    const size_t most = std::max(pays, 4 * size(runs_end_));
    if (wave_.memory == 0) return most;
    return std::min(most, wave_.memory / bytes_of_row(dtype));
  }

  void make_plans() {
    planned_.assign(wave_.cells.size(), false);
    const int together = wave_.positions_together > 0 ? wave_.positions_together
                         : on_gpu()                   ? positions_together_gpu
                                                      : 1;
    const bool whole = reach() == Overlay::Reach::sequence;
    for (size_t i = 0; i < wave_.cells.size(); ++i) {
      const auto& cell = wave_.cells[i];
      const auto& run = wave_.runs[size(cell.run)];
      Plan plan{i, cell.run, std::numeric_limits<int>::max(), layers_ + 1, {}};
      for (auto change : cell.changes) {
        if (change.source == cell.run) {  // held, not changed
          plan.changes.push_back(change);
          continue;
        }
        if (change.source >= 0)
          change = narrowed(change, run, wave_.runs[size(change.source)]);
        if (change.from > change.to) continue;
        plan.first = std::min(plan.first, change.from);
        plan.join = std::min(plan.join, change.first_layer);
        plan.changes.push_back(change);
      }
      if (plan.join > layers_) continue;
      plan.first = whole ? 0 : plan.first / together * together;
      planned_[i] = true;
      plans_.push_back(std::move(plan));
    }
    std::ranges::stable_sort(plans_, {}, &Plan::join);
  }

  // How far what stands looks.
  Overlay::Reach reach() const {
    const auto* overlay = wave_.model.overlay();
    return overlay ? overlay->reach() : Overlay::Reach::value;
  }

  // Without the positions where both runs have the same value.
  Change narrowed(
      Change change,
      const Wavefront::Run& run,
      const Wavefront::Run& source) const {
    // Equal tokens make equal values only where nothing looks further.
    if (reach() == Overlay::Reach::sequence) return change;
    if (reach() == Overlay::Reach::position &&
        run.ids.size() != source.ids.size())
      return change;
    int same = shared(run, source);
    for (int p = 0; p < same && !wave_.aligned.empty(); ++p)
      if (wave_.aligned[size(p)] != p) same = p;
    change.from = std::max(change.from, same);
    // What enters layer 0 knows no other positions.
    const auto& site = wave_.sites[change.site];
    const bool embedded = change.first_layer == 0 && change.last_layer == 0 &&
                          wave_.aligned.empty() && !run.embedded &&
                          !source.embedded &&
                          site.ids[0] == decoder_.layers[0]->input_site();
    if (embedded) {
      const auto equal = [&](int p) {
        return run.ids[size(p)] == source.ids[size(p)];
      };
      while (change.from <= change.to && equal(change.from))
        ++change.from;
      while (change.from <= change.to && equal(change.to))
        --change.to;
    }
    return change;
  }

  // Reads the metric of the runs, once, and of the cells that travelled.
  void read(const Walk& walk) {
    const auto& sequences = walk.packed().sequences;
    const size_t runs = wave_.runs.size();
    if (wave_.metric.whole_run || walk.whole_head()) return read_whole(walk);
    // Of each sequence, the rows of `out` read and what they should say next.
    std::vector<int> rows, targets;
    std::vector<size_t> owner;
    const bool every = wave_.metric.every_position();
    for (size_t i = 0; i < sequences.size(); ++i) {
      const int run =
          i < runs ? static_cast<int>(i) : walk.travelling()[i - runs]->run;
      const auto& ids = wave_.runs[size(run)].ids;
      if (!every) {
        rows.push_back(static_cast<int>(i));
        owner.push_back(i);
        continue;
      }
      const auto& it = sequences[i];
      for (int j = 0; j + 1 < it.length; ++j) {
        rows.push_back(it.row + j);
        owner.push_back(i);
        targets.push_back(ids[size(it.first + j + 1)]);
      }
    }
    const auto values = measured(walk, rows, targets);

    if (!every) {
      if (!read_runs_) std::copy_n(values.begin(), runs, result_.runs.begin());
      for (size_t i = runs; i < sequences.size(); ++i)
        result_.cells[walk.travelling()[i - runs]->cell] = values[i];
    } else {
      read_means(walk, owner, values);
    }
    read_runs_ = true;
  }

  // Of each sequence all rows, those before a cell's first being its run's.
  void read_whole(const Walk& walk) {
    const auto& sequences = walk.packed().sequences;
    const size_t runs = wave_.runs.size();
    const auto& metric = wave_.metric;
    std::vector<mx::array> all(sequences.size(), mx::array(0));
    for (size_t i = 0; i < sequences.size(); ++i) {
      const auto& it = sequences[i];
      const int length = it.first + it.length;
      std::vector<int> rows(size(length));
      const auto own = rows.begin() + it.first;
      std::iota(rows.begin(), own, it.prefix_row);
      std::iota(own, rows.end(), it.row);
      all[i] =
          logits(mx::take(walk.out(), ints(rows), 1), {.lengths = {length}});
      if (metric.needs_reference() && !reference_ &&
          i == size(wave_.reference)) {
        reference_ = mx::take(all[i], metric.position_in(length), 0);
        reference_->eval();
      }
    }
    for (size_t i = 0; i < sequences.size(); ++i) {
      const int run =
          i < runs ? static_cast<int>(i) : walk.travelling()[i - runs]->run;
      (i < runs ? result_.runs[i]
                : result_.cells[walk.travelling()[i - runs]->cell]) =
          of_run(all[i], wave_.runs[size(run)].ids);
    }
  }

  // The metric of a whole run's logits, [pos, column].
  float of_run(const mx::array& all, const std::vector<int>& ids) const {
    const auto& metric = wave_.metric;
    if (metric.whole_run) return metric.values(all, {}, {}).item<float>();
    const int n = all.shape(0);
    if (metric.every_position())
      return mx::mean(metric.values(
                          mx::slice(all, {0, 0}, {n - 1, all.shape(1)}),
                          {},
                          {ids.begin() + 1, ids.end()}))
          .item<float>();
    const int at = metric.position_in(n);
    return metric
        .values(mx::slice(all, {at, 0}, {at + 1, all.shape(1)}), reference_, {})
        .item<float>();
  }

  // Means over positions; those before a cell's first are its run's.
  void read_means(
      const Walk& walk,
      const std::vector<size_t>& owner,
      const std::vector<float>& values) {
    const auto& sequences = walk.packed().sequences;
    const size_t runs = wave_.runs.size();
    std::vector<std::vector<double>> sums(runs);  // of the first n positions
    for (size_t i = 0; i < runs; ++i)
      sums[i].push_back(0);
    std::vector<double> own(sequences.size(), 0);
    for (size_t i = 0; i < values.size(); ++i) {
      const auto value = static_cast<double>(values[i]);
      own[owner[i]] += value;
      if (owner[i] < runs)
        sums[owner[i]].push_back(sums[owner[i]].back() + value);
    }
    for (size_t i = 0; i < sequences.size(); ++i) {
      const bool is_run = i < runs;
      const Plan* plan = is_run ? nullptr : walk.travelling()[i - runs];
      const size_t run = is_run ? i : size(plan->run);
      const auto n = static_cast<double>(wave_.runs[run].ids.size() - 1);
      const double before = is_run ? 0 : sums[run][size(sequences[i].first)];
      (is_run ? result_.runs[i] : result_.cells[plan->cell]) =
          static_cast<float>((before + own[i]) / n);
    }
  }

  // Of rows x [1, row, d_model] the columns that the metric reads, float32.
  mx::array logits(const mx::array& x, PassRows rows) const {
    return mx::astype(
        mx::squeeze(
            Stepper(wave_.model, nullptr, std::move(rows))
                .head(x, wave_.metric.columns()),
            0),
        mx::float32);
  }

  // How some of the walk's rows out() lie, for what stands.
  static PassRows rows_of(const Walk& walk, const std::vector<int>& rows) {
    const auto all = walk.rows();
    PassRows out;
    if (all.packed.empty()) return out;
    for (const int row : rows) {
      auto it = all.kept[walk.all_rows() ? 0 : size(row)];
      if (walk.all_rows()) {
        it = *std::prev(
            std::ranges::upper_bound(all.packed, row, {}, &PackedRows::row));
        it.first += row - it.row;
      }
      out.packed.push_back(
          {static_cast<int>(out.packed.size()), 1, it.first, it.total});
    }
    return out;
  }

  std::vector<float> measured(
      const Walk& walk,
      const std::vector<int>& rows,
      const std::vector<int>& targets) {
    const auto& out = walk.out();
    const auto logits_of = [&](const std::vector<int>& some) {
      return logits(mx::take(out, ints(some), 1), rows_of(walk, some));
    };
    const auto columns = wave_.metric.columns();
    if (wave_.metric.needs_reference() && !reference_) {
      reference_ = mx::squeeze(logits_of({wave_.reference}), 0);
      reference_->eval();
    }
    const size_t width =
        columns.empty() ? size(decoder_.config().vocab) : columns.size();
    const size_t chunk =
        std::max<size_t>(1, logits_budget / (width * sizeof(float)));
    std::vector<float> all;
    for (size_t i = 0; i < rows.size(); i += chunk) {
      const auto at = static_cast<long>(i);
      const auto to = static_cast<long>(std::min(rows.size(), i + chunk));
      const std::vector<int> some(rows.begin() + at, rows.begin() + to);
      std::vector<int> next;
      if (!targets.empty())
        next.assign(targets.begin() + at, targets.begin() + to);
      auto values = mx::contiguous(
          wave_.metric.values(logits_of(some), reference_, next));
      values.eval();
      all.insert(
          all.end(),
          values.data<float>(),
          values.data<float>() + values.size());
    }
    return all;
  }

  const Wavefront& wave_;
  const Decoder& decoder_;
  int layers_;
  std::vector<int> run_rows_;
  int runs_end_ = 0;
  std::vector<Plan> plans_;
  std::vector<bool> planned_;
  Wavefront::Result result_;
  std::optional<mx::array> reference_;
  bool read_runs_ = false;
};

}  // namespace

Wavefront::Result Wavefront::sweep() const {
  return Sweeper(*this).sweep();
}

}  // namespace mlxterp
