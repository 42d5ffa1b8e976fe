#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "mlxterp/view/lens.h"

namespace mlxterp::view {

namespace {

constexpr size_t gap = 2;
constexpr size_t narrow_cell = 12;
constexpr size_t wide_cell = 16;

std::string layer_name(const Lens& lens, size_t row) {
  return lens.layers[row] ? fmt::format("{}", *lens.layers[row]) : "embed";
}

// " Paris 62%", the number always whole, and a star where it is the tracked.
std::string cell_text(
    const Lens& lens,
    const LensNames& names,
    size_t row,
    size_t column,
    size_t width) {
  const int id = lens.winner(row, column);
  const auto first = lens.cell(row, column) * static_cast<size_t>(lens.top_k);
  const auto number = percent(lens.top_probabilities[first]);
  const size_t mark = lens.track ? 1 : 0;
  const auto label = id < 0 ? std::string() : visible(names.token(id));
  const bool wins = id >= 0 && lens.track == id;
  return fmt::format(
      "{}{} {}",
      mark == 0 ? ""
      : wins    ? "*"
                : " ",
      fit(label, width - mark - number.size() - 1),
      number);
}

Tone tone_of(const Lens& lens, size_t row, size_t column) {
  const auto cell = lens.cell(row, column);
  const float p =
      lens.top_probabilities[cell * static_cast<size_t>(lens.top_k)];
  if (lens.track && lens.track_ranks[cell] == 0) return Tone::accent;
  if (p >= 0.5f) return Tone::strong;
  return p < 0.1f ? Tone::faint : Tone::plain;
}

std::string tracked_text(const Lens& lens, const LensNames& names) {
  const size_t column = lens.columns() - 1;
  std::vector<float> probabilities;
  int best = -1;
  for (size_t row = 0; row < lens.rows(); ++row) {
    const auto cell = lens.cell(row, column);
    probabilities.push_back(lens.track_probabilities[cell]);
    best = lens.track_ranks[cell];
  }
  const auto label = visible(names.token(*lens.track));
  std::string out = fmt::format(
      "\nTracked \"{}\" ({}) at position {}: ",
      label,
      *lens.track,
      lens.positions[column]);
  if (const auto row = lens.on_top_from(column))
    out += fmt::format(
        "on top from {} on\n",
        lens.layers[*row] ? fmt::format("layer {}", *lens.layers[*row])
                          : std::string("the start"));
  else if (best > 0)
    out += fmt::format("not on top at the end, rank {}\n", best);
  else
    out += "the last row is not finite\n";
  out += fmt::format(
      "  probability by layer  {} {} {} {}\n",
      layer_name(lens, 0),
      sparkline(probabilities),
      layer_name(lens, lens.rows() - 1),
      percent(probabilities.back()));
  return out;
}

}  // namespace

std::string lens_text(
    const Lens& lens, const LensNames& names, const Terminal& to) {
  size_t label_width = std::string("layer").size();
  const size_t room = to.width > label_width ? to.width - label_width : 0;
  const size_t most = std::max<size_t>(1, room / (narrow_cell + gap));
  const size_t shown = std::min(lens.columns(), most);
  const size_t first = lens.columns() - shown;
  const size_t width = std::clamp(room / shown - gap, narrow_cell, wide_cell);

  std::string out = toned("layer", Tone::faint, to);
  for (size_t column = first; column < lens.columns(); ++column) {
    const int position = lens.positions[column];
    const auto heading = fmt::format(
        "{}{}:{}",
        lens.track ? " " : "",
        position,
        visible(names.prompt[static_cast<size_t>(position)]));
    out.append(gap, ' ');
    out += toned(fit(heading, width), Tone::strong, to);
  }
  out.erase(out.find_last_not_of(' ') + 1);
  out += '\n';
  for (size_t row = lens.rows(); row-- > 0;) {
    out += toned(
        fit(layer_name(lens, row), label_width, Align::right), Tone::faint, to);
    for (size_t column = first; column < lens.columns(); ++column) {
      out.append(gap, ' ');
      out += toned(
          cell_text(lens, names, row, column, width),
          tone_of(lens, row, column),
          to);
    }
    out += '\n';
  }
  if (first > 0)
    out += fmt::format(
        "{} earlier position{} left out; --positions 0..{} shows them, or a "
        "wider terminal\n",
        first,
        first == 1 ? "" : "s",
        lens.positions[first] - 1);
  const auto not_finite =
      std::count(lens.top_ids.begin(), lens.top_ids.end(), -1);
  if (not_finite > 0)
    out += fmt::format(
        "{} cell(s) hold NaN or infinite logits\n", not_finite / lens.top_k);
  if (lens.track) out += tracked_text(lens, names);
  return out;
}

}  // namespace mlxterp::view
