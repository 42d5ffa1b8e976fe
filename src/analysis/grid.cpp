#include "analysis/grid.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "analysis/any_model.h"
#include "core/fail.h"

namespace mlxterp {

namespace {

std::vector<int> chosen(
    const std::vector<int>& asked, int n, const char* what, const char* who) {
  std::vector<int> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), 0);
  if (asked.empty()) return values;
  values.clear();
  for (const int value : asked) {
    const int at = value < 0 ? n + value : value;
    if (at < 0 || at >= n)
      fail(
          ErrorKind::out_of_range,
          "[{}] {} {} is out of range; there are {} {}s, 0 to {}",
          who,
          what,
          value,
          n,
          what,
          n - 1);
    values.push_back(at);
  }
  return values;
}

// Neighbours as ranges, both ends counted.
std::vector<std::pair<int, int>> ranges(
    const std::optional<int>& one, const std::vector<int>& some) {
  if (one) return {{*one, *one}};
  std::vector<std::pair<int, int>> out;
  for (const int value : some)
    if (!out.empty() && out.back().second + 1 == value)
      out.back().second = value;
    else
      out.emplace_back(value, value);
  return out;
}

void check(
    const LayerSite& site,
    const GridChoice& choice,
    const std::vector<size_t>& lengths,
    const char* who) {
  const auto by = [&](Axis axis) {
    return std::ranges::count(choice.by, axis) > 0;
  };
  if (choice.by.empty())
    fail(
        ErrorKind::usage,
        "[{}] no axis was given; name layer, pos, head or neuron",
        who);
  for (const auto axis : choice.by)
    if (std::ranges::count(choice.by, axis) > 1)
      fail(
          ErrorKind::usage,
          "[{}] the axis '{}' is given twice",
          who,
          name(axis));
  const bool heads = site.heads > 0;
  if (heads && (by(Axis::neuron) || !choice.neurons.empty()))
    fail(
        ErrorKind::usage,
        "[{}] '{}' has heads, not neurons; sweep by head",
        who,
        site.relative);
  if (!heads && (by(Axis::head) || !choice.heads.empty()))
    fail(
        ErrorKind::usage,
        "[{}] '{}' has no heads; sweep by layer, pos or neuron, or use z, q, "
        "k, "
        "v or pattern",
        who,
        site.relative);
  if (!by(Axis::position) && choice.positions.empty()) return;
  for (const auto length : lengths)
    if (length != lengths.front())
      fail(
          ErrorKind::usage,
          "[{}] prompts of {} and {} tokens have no positions in common; sweep "
          "by "
          "layer or head, or use prompts of one length",
          who,
          lengths.front(),
          length);
}

// Heads or neurons that the site has in a layer.
int units_in(
    const InterpretableModel& model, const LayerSite& site, int layer) {
  const auto id = site.ids[static_cast<size_t>(layer)];
  if (!decoder_of(model) || site.pattern || site.shift > 0)
    return site.heads > 0 ? site.heads : site.width;
  const auto& own = model.sites()[id];
  if (site.heads > 0) return own.n_heads > 0 ? own.n_heads : site.heads;
  return own.width > 0 ? own.width : site.width;
}

// The same in all these layers, where they are told apart.
int count_units(
    const InterpretableModel& model,
    const LayerSite& site,
    const GridChoice& choice,
    const std::vector<int>& layers,
    const char* who) {
  const bool heads = site.heads > 0;
  if (layers.empty()) return heads ? site.heads : site.width;
  const int n = units_in(model, site, layers[0]);
  const bool told_apart = !choice.heads.empty() || !choice.neurons.empty() ||
                          std::ranges::count(choice.by, Axis::head) > 0 ||
                          std::ranges::count(choice.by, Axis::neuron) > 0;
  for (const int layer : layers)
    if (const int own = units_in(model, site, layer); told_apart && own != n)
      fail(
          ErrorKind::usage,
          "[{}] '{}' has {} {} in layer {} and {} in layer {}; choose layers "
          "that have the same number",
          who,
          site.relative,
          n,
          heads ? "heads" : "neurons",
          layers[0],
          own,
          layer);
  return n;
}

}  // namespace

Grid make_grid(
    const InterpretableModel& model,
    const LayerSite& site,
    const GridChoice& choice,
    const std::vector<size_t>& lengths,
    const char* who) {
  check(site, choice, lengths, who);
  auto layers = chosen(choice.layers, layer_count(model), "layer", who);
  const auto absent = [&](int layer) {
    return site.ids[static_cast<size_t>(layer)] < 0;
  };
  if (choice.layers.empty())
    std::erase_if(layers, absent);
  else if (const auto it = std::ranges::find_if(layers, absent);
           it != layers.end())
    fail(
        ErrorKind::usage,
        "[{}] layer {} has no '{}'; leave it out",
        who,
        *it,
        site.relative);
  const auto positions = chosen(
      choice.positions, static_cast<int>(lengths.front()), "position", who);
  const int n_units = count_units(model, site, choice, layers, who);
  const auto units = site.heads > 0
                         ? chosen(choice.heads, n_units, "head", who)
                         : chosen(choice.neurons, n_units, "neuron", who);
  Grid grid;
  size_t n = 1;
  for (const auto axis : choice.by) {
    grid.axes.push_back(
        {axis,
         axis == Axis::layer      ? layers
         : axis == Axis::position ? positions
                                  : units});
    n *= grid.axes.back().values.size();
  }
  grid.cells.resize(n);
  for (size_t c = 0; c < n; ++c) {
    std::optional<int> layer, position, unit;
    size_t rest = c;
    for (size_t a = grid.axes.size(); a-- > 0;) {
      const auto& [axis, values] = grid.axes[a];
      const int value = values[rest % values.size()];
      rest /= values.size();
      (axis == Axis::layer      ? layer
       : axis == Axis::position ? position
                                : unit) = value;
    }
    // What is not gone by is changed at once: all of it, or all that was
    // chosen.
    const bool every_unit = choice.heads.empty() && choice.neurons.empty();
    const auto own_units = unit         ? std::vector{*unit}
                           : every_unit ? std::vector{-1}
                                        : units;
    const bool every_position = !position && choice.positions.empty();
    const auto own_positions = every_position
                                   ? std::vector<std::pair<int, int>>{{0, -1}}
                                   : ranges(position, positions);
    for (const auto& [first, last] : ranges(layer, layers))
      for (const auto& [from, to] : own_positions)
        for (const int u : own_units)
          grid.cells[c].push_back({first, last, from, to, u});
  }
  return grid;
}

}  // namespace mlxterp
