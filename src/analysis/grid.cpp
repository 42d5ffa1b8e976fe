#include "analysis/grid.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "core/fail.h"

namespace mlxterp {

namespace {

// What a sweep goes over, counted from the front.
struct Chosen {
  std::vector<int> layers, positions, units;
};

std::vector<int> all(int n) {
  std::vector<int> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

std::vector<int> select(
    const char* who, const std::vector<int>& asked, int n, const char* what) {
  if (asked.empty()) return all(n);
  std::vector<int> values;
  for (const int value : asked) {
    const int at = value < 0 ? n + value : value;
    if (at < 0 || at >= n)
      fail(
          ErrorKind::out_of_range,
          "[{}] {} {} is out of range; there are {}",
          who,
          what,
          value,
          n);
    values.push_back(at);
  }
  return values;
}

bool by(const PatchOptions& options, Axis axis) {
  return std::ranges::find(options.by, axis) != options.by.end();
}

// The cells, the last axis fastest.
std::vector<std::vector<Place>> make_cells(
    const PatchOptions& options,
    const std::vector<Sweep::Range>& axes,
    const Chosen& chosen) {
  size_t n = 1;
  for (const auto& axis : axes)
    n *= axis.values.size();
  std::vector<std::vector<Place>> cells(n);
  for (size_t c = 0; c < n; ++c) {
    std::optional<int> layer, position, unit;
    size_t rest = c;
    for (size_t a = axes.size(); a-- > 0;) {
      const auto& [axis, values] = axes[a];
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
        !unit && options.heads.empty() && options.neurons.empty();
    const auto units = every_unit ? std::vector<int>{-1}
                       : unit     ? std::vector<int>{*unit}
                                  : chosen.units;
    const bool every_position = !position && options.positions.empty();
    for (const auto& [first, last] : ranges(layer, chosen.layers))
      for (const auto& [from, to] :
           every_position ? std::vector<std::pair<int, int>>{{0, -1}}
                          : ranges(position, chosen.positions))
        for (const int u : units)
          cells[c].push_back({first, last, from, to, u});
  }
  return cells;
}

}  // namespace

std::vector<Pair> make_pairs(
    const char* who,
    const InterpretableModel& model,
    const PatchOptions& options) {
  const auto clean = model.token_ids(options.clean);
  const auto corrupt = model.token_ids(options.corrupt);
  if (clean.size() != corrupt.size())
    fail(
        ErrorKind::usage,
        "[{}] {} clean and {} corrupted prompts; give as many of each",
        who,
        clean.size(),
        corrupt.size());
  const bool denoise = options.direction == Direction::denoise;
  std::vector<Pair> pairs;
  for (size_t i = 0; i < clean.size(); ++i) {
    if (clean[i].size() != corrupt[i].size() && options.aligned.empty())
      fail(
          ErrorKind::usage,
          "[{}] pair {}: the clean prompt has {} tokens, the corrupted "
          "one {}; make them equally long, or say which positions stand for "
          "each other (aligned)",
          who,
          i,
          clean[i].size(),
          corrupt[i].size());
    const auto& rope = model.decoder().config().rope;
    if (!rope.alike(
            static_cast<int>(clean[i].size()),
            static_cast<int>(corrupt[i].size())))
      fail(
          ErrorKind::usage,
          "[{}] this model's rotary embedding turns prompts of {} and {} "
          "tokens otherwise; make them equally long",
          who,
          clean[i].size(),
          corrupt[i].size());
    Pair pair{
        denoise ? corrupt[i] : clean[i], denoise ? clean[i] : corrupt[i], {}};
    if (!options.aligned.empty()) {
      pair.aligned.assign(pair.run.size(), -1);
      for (const auto& [in_clean, in_corrupt] : options.aligned) {
        const int at = denoise ? in_corrupt : in_clean;
        const int from = denoise ? in_clean : in_corrupt;
        if (at < 0 || from < 0 || static_cast<size_t>(at) >= pair.run.size() ||
            static_cast<size_t>(from) >= pair.source.size())
          fail(
              ErrorKind::out_of_range,
              "[{}] the aligned positions {} (clean) and {} (corrupted) "
              "are out of range; the prompts have {} and {} tokens",
              who,
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

Grid make_grid(
    const char* who,
    const InterpretableModel& model,
    const PatchOptions& options,
    const LayerSite& site,
    const std::vector<Pair>& pairs) {
  Grid grid;
  Chosen chosen;
  if (options.by.empty())
    fail(
        ErrorKind::usage,
        "[{}] no axis to go by; name layer, pos, head or neuron",
        who);
  const auto& config = model.decoder().config();
  const bool heads = site.heads > 0;
  if (heads && (by(options, Axis::neuron) || !options.neurons.empty()))
    fail(
        ErrorKind::usage,
        "[{}] '{}' has heads, no neurons; go by head",
        who,
        printable(options.site));
  if (!heads && (by(options, Axis::head) || !options.heads.empty()))
    fail(
        ErrorKind::usage,
        "[{}] '{}' has no heads; go by layer, pos or neuron, or take z, "
        "q, k, v or pattern",
        who,
        printable(options.site));
  size_t length = pairs[0].run.size();
  if (by(options, Axis::position) || !options.positions.empty())
    for (size_t i = 1; i < pairs.size(); ++i)
      if (pairs[i].run.size() != length)
        fail(
            ErrorKind::usage,
            "[{}] pairs of {} and {} tokens have no positions in common; "
            "go by layer or head, or use prompts of one length",
            who,
            length,
            pairs[i].run.size());
  chosen.layers = select(who, options.layers, config.n_layers, "layer");
  chosen.positions =
      select(who, options.positions, static_cast<int>(length), "position");
  chosen.units = heads ? select(who, options.heads, site.heads, "head")
                       : select(who, options.neurons, site.width, "neuron");
  for (size_t i = 0; i < options.by.size(); ++i) {
    const auto axis = options.by[i];
    if (std::ranges::count(options.by, axis) > 1)
      fail(ErrorKind::usage, "[{}] the axis '{}' twice", who, name(axis));
    grid.axes.push_back(
        {axis,
         axis == Axis::layer      ? chosen.layers
         : axis == Axis::position ? chosen.positions
                                  : chosen.units});
  }
  grid.cells = make_cells(options, grid.axes, chosen);
  return grid;
}

std::vector<Readout> readouts(
    const char* who,
    const InterpretableModel& model,
    const Metric& metric,
    const std::vector<Pair>& pairs) {
  std::vector<Readout> out;
  for (size_t i = 0; i < pairs.size(); ++i) {
    out.push_back(readout(model, metric, i, pairs.size()));
    for (const auto* ids : {&pairs[i].run, &pairs[i].source})
      out[i].position_in(static_cast<int>(ids->size()));
    if (out[i].every_position() && pairs[i].run.size() < 2)
      fail(
          ErrorKind::usage,
          "[{}] the loss needs a prompt of two tokens at least",
          who);
  }
  return out;
}

std::vector<Place> of_pair(const std::vector<Place>& cell, const Pair& pair) {
  std::vector<Place> out;
  for (auto place : cell) {
    if (place.to < 0) place.to = static_cast<int>(pair.run.size()) - 1;
    if (pair.aligned.empty()) {
      out.push_back(place);
      continue;
    }
    for (int p = place.from; p <= place.to; ++p)
      if (pair.aligned[static_cast<size_t>(p)] >= 0)
        out.push_back({place.first_layer, place.last_layer, p, p, place.unit});
  }
  return out;
}

}  // namespace mlxterp
