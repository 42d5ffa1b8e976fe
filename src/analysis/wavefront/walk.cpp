#include "analysis/wavefront/walk.h"

#include <memory>
#include <numeric>
#include <tuple>

#include "analysis/int_array.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/transforms.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

size_t size(int n) {
  return static_cast<size_t>(n);
}

mx::Shape first_row(const mx::array& x) {
  auto shape = x.shape();
  shape[0] = 1;
  return shape;
}

}  // namespace

void Walk::go(
    const std::vector<Plan>& plans,
    size_t begin,
    size_t end,
    int start,
    Stream& stream,
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
  auto now = stream;
  std::optional<Stream> left;
  if (next == start) left = now;
  size_t at = begin;
  bool all_kept = false;
  // Whether something is replaced that leaves the last layer.
  const bool leaves = std::any_of(
      plans.begin() + static_cast<long>(begin),
      plans.begin() + static_cast<long>(end),
      [&](const Plan& plan) {
        return std::ranges::any_of(
            plan.changes, [&](const Wavefront::Change& change) {
              return change.last_layer >= layers;
            });
      });
  for (int layer = start; layer < layers; ++layer) {
    if (layer == next && layer > start)
      left = {
          mx::slice(now.x, {0, 0, 0}, {1, runs_end(), now.x.shape(2)}),
          positions(now.carried, 0, runs_end())};
    at = join(plans, at, end, layer, now);
    plan(layer);
    std::optional<mx::array> last;
    const bool is_last = layer + 1 == layers;
    const bool trimmed =
        is_last && !leaves && !all_rows() && !whole_ && !late();
    if (trimmed) last = int_array(metric_rows());
    layer_ = layer;
    seen_ = {};
    by_sequence_.clear();
    if (mixes_) see_shared(now.carried);
    Stepper stepper(wave_.model, this, rows());
    stepper.carried() = std::move(now.carried);
    auto& x = now.x = stepper.layer(
        layer, now.x, std::make_shared<const nn::PackedBatch>(packed_), last);
    now.carried = std::move(stepper.carried());
    all_kept = trimmed;
    // Evaluated as it goes, so that what it took is free again: by then,
    // where memory is given, as MLX allocates ahead of what it computes.
    left ? mx::async_eval(x, left->x) : mx::async_eval(x);
    if (wave_.memory > 0) x.eval();
    done(layer, size(packed_.rows()));
  }
  if (leaves) {
    join(plans, at, end, layers, now);
    plan(layers);
    layer_ = layers;
    now.x = at_stream(now.x);
  }
  if (!all_kept && !all_rows())
    now.x = mx::take(now.x, int_array(metric_rows()), 1);
  out_ = now.x;
  if (left) stream = *left;
}

PassRows Walk::rows() const {
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

std::vector<int> Walk::metric_rows() const {
  std::vector<int> rows;
  for (const auto& it : packed_.sequences) {
    const int length = it.first + it.length;
    rows.push_back(it.row + wave_.metric.position_in(length) - it.first);
  }
  return rows;
}

void Walk::offer(SiteId site, std::function<mx::array()> make) {
  if (!mixes_) return;
  const auto* attn = attention();
  if (!attn) return;
  if (site == attn->rot_q_site() || site == attn->rot_k_site())
    see(site, make());
}

const nn::Attention* Walk::attention() const {
  return decoder_.layers[size(layer_)]->attention();
}

void Walk::see(SiteId site, const mx::array& value) {
  const auto* attn = attention();
  if (!attn) return;
  if (site == attn->rot_q_site()) seen_.rot_q = value;
  if (site == attn->rot_k_site()) seen_.rot_k = value;
  if (site == attn->values_site()) seen_.v = value;
  if (site == attn->pattern_site() && seen_.patterns.size() < wave_.runs.size())
    seen_.patterns.push_back(value);
}

void Walk::see_shared(const Carried& carried) {
  const auto* attn = attention();
  if (!attn || attn->config().own_kv) return;
  seen_.rot_k = attn->shared_k(carried);
  seen_.v = attn->shared_v(carried);
}

int Walk::length_of(int run) const {
  return static_cast<int>(wave_.runs[size(run)].ids.size());
}

int Walk::runs_end() const {
  return run_rows_.back() + length_of(static_cast<int>(run_rows_.size()) - 1);
}

int Walk::mapped(int position) const {
  const auto& map = wave_.position_map;
  return map.empty() ? position : map[static_cast<size_t>(position)];
}

size_t Walk::join(
    const std::vector<Plan>& plans,
    size_t at,
    size_t end,
    int layer,
    Stream& stream) {
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
  // Of what travels beside the stream, none is taken of another run.
  auto own = rows;
  packed_.sequences.resize(runs);
  travelling_.clear();
  for (const auto& [plan, row] : all) {
    const int run = run_rows_[size(plan->run)];
    const int length = length_of(plan->run) - plan->first;
    const auto begin = rows.size();
    for (int i = 0; i < length; ++i)
      rows.push_back(row < 0 ? run + plan->first + i : row + i);
    own.insert(own.end(), rows.begin() + static_cast<long>(begin), rows.end());
    if (row < 0)
      for (const auto& change : plan->changes)
        if (taken(*plan, change, layer))
          for (int p = change.from; p <= change.to; ++p)
            rows[begin + size(p - plan->first)] =
                run_rows_[size(change.source)] + mapped(p);
    packed_.sequences.push_back(
        {static_cast<int>(begin), length, plan->first, run});
    travelling_.push_back(plan);
  }
  stream.x = mx::take(stream.x, int_array(rows), 1);
  stream.carried = positions(stream.carried, int_array(own));
  return at;
}

bool Walk::taken(
    const Plan& plan, const Wavefront::Change& change, int layer) const {
  const auto& ids = wave_.sites[change.site].ids;
  const bool stream = size(layer) >= ids.size() || plain_stream(layer, ids);
  return stream && plan.join == layer && change.first_layer == layer &&
         change.unit < 0 && change.source >= 0 && change.source != plan.run;
}

bool Walk::plain_stream(int layer, const std::vector<SiteId>& ids) const {
  const auto enters = decoder_.layers[size(layer)]->input_site();
  const auto* overlay = wave_.model.overlay();
  return ids[size(layer)] == enters && !(overlay && overlay->edits(enters));
}

mx::array Walk::at_sequence(SiteId site, mx::array value) {
  auto& before = by_sequence_[site];
  const size_t i = before.size(), runs = wave_.runs.size();
  const auto& it = packed_.sequences.at(i);
  const auto found = replace_.find(site);
  if (i >= runs && found != replace_.end()) {
    const std::vector<mx::array> values(
        before.begin(), before.begin() + static_cast<long>(runs));
    const auto of_runs = mx::flatten(mx::concatenate(values, 1), 0, 1);
    value = replaced(
        found->second.within(it.row, it.length),
        site,
        std::move(value),
        of_runs);
  }
  const bool kept = std::ranges::find(wave_.keep, site) != wave_.keep.end();
  if (i >= runs && kept)
    kept_.push_back(
        {travelling_[i - runs]->cell, site, it.first, mx::squeeze(value, 0)});
  before.push_back(value);
  return value;
}

Replacement Replacement::within(int row, int count) const {
  Replacement out;
  const auto own = [&](int at) { return at >= row && at < row + count; };
  for (size_t i = 0; i < rows.size(); ++i)
    if (own(rows[i])) {
      out.rows.push_back(rows[i] - row);
      out.units.push_back(units[i]);
      out.sources.push_back(sources[i]);
    }
  for (size_t i = 0; i < given_rows.size(); ++i)
    if (own(given_rows[i])) {
      out.given_rows.push_back(given_rows[i] - row);
      out.given_units.push_back(given_units[i]);
      out.given.push_back(given[i]);
    }
  return out;
}

void Walk::keep(SiteId site, const mx::array& value) {
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

void Walk::plan(int layer) {
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
              run_rows_[size(change.source)] + (own ? p : mapped(p)));
        }
      }
      mixes_ |= site.from_pattern;
    }
  }
}

bool Walk::late() const {
  return std::ranges::any_of(replace_, [&](const auto& entry) {
    return entry.first >= 0 && sites_[entry.first].stage == Stage::after;
  });
}

mx::array Walk::at_stream(mx::array x) {
  const auto found = replace_.find(-1);
  return found == replace_.end() ? x
                                 : replaced(found->second, -1, std::move(x));
}

mx::array Walk::replaced(
    const Replacement& by,
    SiteId id,
    mx::array value,
    const std::optional<mx::array>& values_of_runs) const {
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
      // MLX writes where it is told; a module of the user's may pool positions.
      if (to[i] >= rows || from[i] >= source.shape(0) || units[i] >= n)
        fail(
            ErrorKind::usage,
            "[sweep] site '{}' has {} positions where the prompts have more; a "
            "part that does not keep them cannot be swept",
            id < 0 ? "resid_post" : sites_[id].name,
            rows);
      const bool all = units[i] < 0;
      for (int u = all ? 0 : units[i]; u < (all ? n : units[i] + 1); ++u) {
        to_rows.push_back(to[i]);
        to_units.push_back(u);
        places.push_back(from[i] * n + u);
      }
    }
    const auto updates = mx::reshape(
        mx::astype(mx::take(flat, int_array(places), 0), value.dtype()),
        {static_cast<int>(places.size()), 1, 1, flat.shape(1)});
    const auto shape = value.shape();
    value = mx::reshape(
        mx::scatter(
            mx::reshape(value, {rows, n, -1}),
            {int_array(to_rows), int_array(to_units)},
            updates,
            {0, 1}),
        shape);
  };
  const auto original = values_of_runs.value_or(mx::flatten(value, 0, 1));
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

std::pair<mx::array, std::vector<int>> Walk::mixed(
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

mx::array Walk::mix(int run, int source, int cell) const {
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
          ? attention()->pattern(turned(*seen_.rot_q), turned(*seen_.rot_k))
          : seen_.patterns[size(source)];
  auto v = mx::transpose(own_v(*seen_.v), {0, 2, 1, 3});
  v = mx::repeat(v, pattern.shape(1) / v.shape(1), 1);
  auto z = mx::transpose(mx::matmul(pattern, v), {0, 2, 1, 3});
  // What stands at z edits this one, too.
  if (const auto* overlay = wave_.model.overlay())
    z = Standing(*overlay, sites_, nullptr, {.lengths = {length_of(run)}})
            .at(attention()->mix_site(), z);
  return mx::squeeze(z, 0);
}

}  // namespace mlxterp
