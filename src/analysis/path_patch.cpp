#include "mlxterp/analysis/path_patch.h"

#include <algorithm>
#include <map>

#include "analysis/any_model.h"
#include "analysis/grid.h"
#include "analysis/means.h"
#include "analysis/plain_sweep.h"
#include "analysis/readout.h"
#include "analysis/sites.h"
#include "analysis/wavefront/wavefront.h"
#include "core/fail.h"
#include "mlx/ops.h"
#include "mlxterp/analysis/heads.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

const char* name_of(Receiver::Input input) {
  return input == Receiver::Input::q   ? "q"
         : input == Receiver::Input::k ? "k"
                                       : "v";
}

// One site in the layers that have it; -1 in the others.
LayerSite where_it_is(const InterpretableModel& model, const char* relative) {
  LayerSite out;
  out.relative = relative;
  for (int i = 0; i < layer_count(model); ++i) {
    const auto found = model.sites().lookup(out.name_of(i));
    out.ids.push_back(found.empty() ? -1 : found[0]);
  }
  return out;
}

class PathPatcher {
 public:
  PathPatcher(const InterpretableModel& model, const PathPatchOptions& options)
      : model_(model),
        options_(options),
        sender_(layer_site(model, options.senders)),
        heads_(
            attention_layers(model).empty() ? where_it_is(model, "attn.z")
                                            : layer_site(model, "z")),
        mlps_(where_it_is(model, "mlp_out")),
        embeddings_(where_it_is(model, "ple_out")),
        receivers_(options.receivers) {
    if (sender_.ids != heads_.ids && sender_.ids != mlps_.ids)
      fail(
          ErrorKind::usage,
          "[path_patch] senders '{}' are neither heads (z) nor MLPs "
          "(mlp_out){}",
          printable(options.senders),
          attention_layers(model).empty() ? "; this model has no attention"
                                          : "");
    // What mixes positions where no heads do.
    others_.relative = "attn_out";
    for (const auto heads : heads_.ids) {
      const auto layer = static_cast<int>(others_.ids.size());
      others_.ids.push_back(
          heads >= 0 ? -1 : model.sites().find(others_.name_of(layer)));
    }
    for (auto& receiver : receivers_)
      check(receiver);
    read_pairs();
    auto by = std::vector{Axis::layer};
    if (sender_.heads > 0) by.push_back(Axis::head);
    std::vector<size_t> lengths;
    for (const auto& [run, source] : pairs_)
      lengths.push_back(run.size());
    grid_ = make_grid(
        model,
        sender_,
        {by, options.layers, {}, options.heads, {}},
        lengths,
        "path_patch");
  }

  Sweep sweep() {
    Sweep out;
    out.axes = grid_.axes;
    Averages averages(grid_.cells.size());
    double run = 0, source = 0;
    for (size_t i = 0; i < pairs_.size(); ++i) {
      auto result = walks_ ? to_receivers(i) : by_passes(i);
      out.computed += result.computed;
      out.rows += result.rows;
      if (walks_ && !receivers_.empty()) {
        // The runs too: a cell that nothing reaches is one of them, to the bit.
        auto last = from_receivers(i, result);
        out.rows += last.rows;
        result.cells = std::move(last.cells);
        result.runs = std::move(last.runs);
        result.inert = std::move(last.inert);
      }
      run += static_cast<double>(result.runs[0]);
      source += static_cast<double>(result.runs[1]);
      averages.add(result.cells, options_.metric.name, "path_patch");
      averages.add_inert(result.inert);
    }
    averages.put(out);
    const auto n = static_cast<double>(pairs_.size());
    const bool noise = options_.direction == Direction::noise;
    out.clean = static_cast<float>((noise ? run : source) / n);
    out.corrupt = static_cast<float>((noise ? source : run) / n);
    out.direction = options_.direction;
    out.pairs = pairs_.size();
    out.ids = pairs_[0].first;
    return out;
  }

 private:
  void check(Receiver& receiver) const {
    const bool q = receiver.input == Receiver::Input::q;
    const int layers = layer_count(model_);
    const auto inputs = layer_site(model_, name_of(receiver.input));
    int heads = inputs.heads;
    const int queries = heads_.heads;
    const int layer =
        receiver.layer < 0 ? layers + receiver.layer : receiver.layer;
    const bool there = layer >= 0 && layer < layers;
    const bool query = receiver.head >= 0 && receiver.head < queries;
    const auto* decoder = decoder_of(model_);
    if (decoder && there && inputs.ids[static_cast<size_t>(layer)] >= 0)
      heads = model_.sites()[inputs.ids[static_cast<size_t>(layer)]].n_heads;
    if (there && query && receiver.head >= heads) {
      const int group = queries / heads;
      const Head own{layer, receiver.head / group};
      fail(
          ErrorKind::out_of_range,
          "[path_patch] receiver {}.{}: every {} heads share one k and v, so "
          "there are {} kv heads, 0 to {}; {} reads kv head {}, which is "
          "{}.{}",
          name(Head{receiver.layer, receiver.head}),
          name_of(receiver.input),
          group,
          heads,
          heads - 1,
          name(Head{layer, receiver.head}),
          own.head,
          name(own),
          name_of(receiver.input));
    }
    if (!there || !query)
      fail(
          ErrorKind::out_of_range,
          "[path_patch] receiver {}.{} is out of range; there are {} layers, 0 "
          "to {}, and {} {}heads, 0 to {}",
          name(Head{receiver.layer, receiver.head}),
          name_of(receiver.input),
          layers,
          layers - 1,
          heads,
          q ? "" : "kv ",
          heads - 1);
    receiver.layer = layer;
    if (heads_.ids[static_cast<size_t>(layer)] < 0)
      fail(
          ErrorKind::usage,
          "[path_patch] receiver {}.{}: layer {} has no attention",
          name(Head{layer, receiver.head}),
          name_of(receiver.input),
          layer);
    if (decoder && inputs.ids[static_cast<size_t>(layer)] < 0)
      fail(
          ErrorKind::usage,
          "[path_patch] receiver {}.{}: layer {} reads the keys and values of "
          "layer {}; name a head of that one",
          name(Head{layer, receiver.head}),
          name_of(receiver.input),
          layer,
          decoder->layers[static_cast<size_t>(layer)]
              ->attention()
              ->config()
              .kv_layer);
  }

  void read_pairs() {
    const auto clean = model_.token_ids(options_.clean);
    const auto corrupt = model_.token_ids(options_.corrupt);
    if (clean.size() != corrupt.size())
      fail(
          ErrorKind::usage,
          "[path_patch] {} clean and {} corrupted prompts; give the same "
          "number of each",
          clean.size(),
          corrupt.size());
    for (size_t i = 0; i < clean.size(); ++i) {
      if (clean[i].size() != corrupt[i].size())
        fail(
            ErrorKind::usage,
            "[path_patch] pair {}: the clean prompt has {} tokens, the "
            "corrupted one {}; make them equally long",
            i,
            clean[i].size(),
            corrupt[i].size());
      const bool noise = options_.direction == Direction::noise;
      pairs_.emplace_back(
          noise ? clean[i] : corrupt[i], noise ? corrupt[i] : clean[i]);
      metrics_.push_back(readout(model_, options_.metric, i, clean.size()));
      check_length(metrics_.back(), clean[i].size(), "path_patch");
    }
  }

  Progress progress(size_t pair, double begin, double share) const {
    if (!options_.progress) return {};
    const auto pairs = static_cast<double>(pairs_.size());
    return [this, pair, begin, share, pairs](std::string_view, double done) {
      options_.progress(
          "Patching paths",
          (static_cast<double>(pair) + begin + share * done) / pairs);
    };
  }

  // Senders replaced, the other heads held: to the logits, or as far as the
  // receivers.
  Wavefront::Result to_receivers(size_t pair) const {
    const auto& [run, source] = pairs_[pair];
    const int last = static_cast<int>(run.size()) - 1;
    const int layers = layer_count(model_);
    Wavefront wave{
        .model = model_,
        .runs = {{run}, {source}},
        .sites =
            {{.ids = heads_.ids, .layout = Layout::heads},
             {.ids = mlps_.ids},
             {.ids = others_.ids},
             {.ids = embeddings_.ids}},
        .cells = {},
        .metric = metrics_[pair],
        .reference = options_.direction == Direction::noise ? 0 : 1,
        .memory = options_.memory,
        .progress = progress(pair, 0, receivers_.empty() ? 1 : 0.5),
    };
    for (const auto& receiver : receivers_)
      if (const auto site = site_of(receiver);
          std::ranges::find(wave.keep, site) == wave.keep.end())
        wave.keep.push_back(site);
    const bool head = sender_.heads > 0;
    for (const auto& cell : grid_.cells) {
      auto& changes = wave.cells.emplace_back().changes;
      for (const auto& place : cell) {
        const int layer = place.first_layer;
        changes.push_back(
            {.site = head ? size_t{0} : size_t{1},
             .first_layer = layer,
             .last_layer = layer,
             .from = 0,
             .to = last,
             .unit = place.unit,
             .source = 1});
        const auto hold = [&](size_t site, int first) {
          if (first >= layers) return;
          changes.push_back(
              {.site = site,
               .first_layer = first,
               .last_layer = layers - 1,
               .from = 0,
               .to = last,
               .source = 0});
        };
        hold(0, layer + 1);
        hold(2, layer + 1);
        if (options_.through_mlps) continue;
        hold(1, head ? layer : layer + 1);
        hold(3, layer);
      }
    }
    return wave.sweep();
  }

  SiteId site_of(const Receiver& receiver) const {
    return model_.sites().find(fmt::format(
        "layers.{}.attn.{}", receiver.layer, name_of(receiver.input)));
  }

  // An untouched run but for what the receivers read.
  Wavefront::Result from_receivers(
      size_t pair, const Wavefront::Result& sent) const {
    const auto& run = pairs_[pair].first;
    const int last = static_cast<int>(run.size()) - 1;
    const auto layers = static_cast<size_t>(layer_count(model_));
    Wavefront wave{
        .model = model_,
        .runs = {{run}, {pairs_[pair].second}},
        .sites = {},
        .cells = std::vector<Wavefront::Cell>(grid_.cells.size()),
        .metric = metrics_[pair],
        .reference = options_.direction == Direction::noise ? 0 : 1,
        .memory = options_.memory,
        .progress = progress(pair, 0.5, 0.5),
    };
    std::map<Receiver::Input, size_t> site_at;
    std::map<SiteId, std::vector<mx::array>> rows;
    std::map<SiteId, int> count;
    for (const auto& receiver : receivers_) {
      if (!site_at.contains(receiver.input)) {
        site_at[receiver.input] = wave.sites.size();
        wave.sites.push_back(
            {.ids = layer_site(model_, name_of(receiver.input)).ids,
             .layout = Layout::heads,
             .given = std::vector<mx::array>(layers, mx::array(0.0f))});
      }
      const auto site = site_of(receiver);
      const bool fresh = !rows.contains(site);
      int row = 0;
      for (const auto& kept : sent.kept) {
        if (kept.site != site) continue;
        if (fresh) rows[site].push_back(kept.value);
        // A sender of the receiver's layer, or above, does not reach it: what
        // it was kept with differs in the last bits at most.
        const bool below = std::ranges::any_of(
            grid_.cells[kept.cell], [&](const Place& place) {
              return place.first_layer < receiver.layer;
            });
        if (below)
          wave.cells[kept.cell].changes.push_back(
              {.site = site_at[receiver.input],
               .first_layer = receiver.layer,
               .last_layer = receiver.layer,
               .from = kept.first,
               .to = last,
               .unit = receiver.head,
               .source = -1,
               .given_row = row - kept.first});
        row += kept.value.shape(0);
      }
      if (fresh && !rows[site].empty())
        wave.sites[site_at[receiver.input]]
            .given[static_cast<size_t>(receiver.layer)] =
            mx::concatenate(rows[site], 0);
    }
    return wave.sweep();
  }

  // Two passes a cell, or one to the logits: what a sender changes is let
  // through to the receivers, then what they read is put into an untouched run.
  Wavefront::Result by_passes(size_t pair) const {
    const auto& [run, source] = pairs_[pair];
    const auto& metric = metrics_[pair];
    auto names = saved_names(heads_);
    for (const auto* site : {&mlps_, &others_, &embeddings_}) {
      const auto more = saved_names(*site);
      names.insert(names.end(), more.begin() + 1, more.end());
    }
    const auto own = model_.run(run, {.save = names});
    const auto other = model_.run(source, {.save = saved_names(sender_)});
    std::optional<mx::array> reference;
    if (metric.needs_reference()) {
      const bool noise = options_.direction == Direction::noise;
      reference = metric.row_of((noise ? own : other)["logits"]);
    }
    const bool head = sender_.heads > 0;
    const auto send = [&](const Place& place) {
      const int layer = place.first_layer;
      const auto name = sender_.name_of(layer);
      std::vector<Edit> edits = {{name, part_of(other[name], place.unit)}};
      const auto hold = [&](const LayerSite& site, int first) {
        for (int i = first; i < layer_count(model_); ++i)
          if (site.ids[static_cast<size_t>(i)] >= 0)
            edits.push_back(
                {site.name_of(i), replace_with(own[site.name_of(i)])});
      };
      hold(heads_, layer + 1);
      hold(others_, layer + 1);
      if (options_.through_mlps) return edits;
      hold(mlps_, head ? layer : layer + 1);
      hold(embeddings_, layer);
      return edits;
    };
    std::vector<std::string> read = {"logits"};
    for (const auto& receiver : receivers_)
      read.push_back(model_.sites()[site_of(receiver)].name);
    const auto report = progress(pair, 0, 1);
    Wavefront::Result result;
    for (const auto& cell : grid_.cells) {
      std::vector<Edit> edits;
      for (const auto& place : cell)
        for (auto& edit : send(place))
          edits.push_back(std::move(edit));
      auto reached = model_.run(run, {.save = read, .edits = edits});
      if (!receivers_.empty()) {
        edits.clear();
        for (size_t i = 0; i < receivers_.size(); ++i)
          edits.push_back(
              {read[i + 1], part_of(reached[read[i + 1]], receivers_[i].head)});
        reached = model_.run(run, {.save = {"logits"}, .edits = edits});
      }
      result.cells.push_back(metric.of_run(reached["logits"], run, reference));
      if (report)
        report(
            "",
            static_cast<double>(result.cells.size()) /
                static_cast<double>(grid_.cells.size()));
    }
    result.runs = {
        metric.of_run(own["logits"], run, reference),
        metric.of_run(other["logits"], source, reference)};
    result.computed = grid_.cells.size();
    result.rows = result.computed * run.size() *
                  static_cast<size_t>(layer_count(model_)) *
                  (receivers_.empty() ? 1 : 2);
    return result;
  }

  // A value, or one head of it, in a site's place.
  static Intervention part_of(const mx::array& value, int head) {
    if (head < 0) return replace_with(value);
    return on_heads(
        {head}, replace_with(mx::take(value, mx::array({head}), 2)));
  }

  const InterpretableModel& model_;
  const PathPatchOptions& options_;
  const bool walks_ = decoder_of(model_) != nullptr;
  LayerSite sender_, heads_, mlps_, others_, embeddings_;
  std::vector<Receiver> receivers_;
  std::vector<std::pair<std::vector<int>, std::vector<int>>> pairs_;
  std::vector<Readout> metrics_;
  Grid grid_;
};

}  // namespace

Sweep path_patch(
    const InterpretableModel& model, const PathPatchOptions& options) {
  return PathPatcher(model, options).sweep();
}

}  // namespace mlxterp
