#include "mlxterp/trace/intervention.h"

#include <algorithm>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlx/random.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

using Reach = Intervention::Reach;

std::string shown(const mx::Shape& shape) {
  return fmt::format(
      "({})", fmt::join(std::vector<int>(shape.begin(), shape.end()), ", "));
}

// Whether an array of shape `small` broadcasts into one of shape `whole`.
bool fits(const mx::Shape& small, const mx::Shape& whole) {
  return small.size() <= whole.size() &&
         std::equal(
             small.rbegin(), small.rend(), whole.rbegin(), [](int a, int b) {
               return a == b || a == 1;
             });
}

// As the site's dtype. MLX would drop an imaginary part without a word.
mx::array cast(const mx::array& given, const mx::array& x, const SiteView& at) {
  if (given.dtype() == mx::complex64 && x.dtype() != mx::complex64)
    fail(
        ErrorKind::usage,
        "[intervention] site '{}' is real, the array given is complex64; "
        "pass the real part",
        at.name);
  return mx::astype(given, x.dtype());
}

// What a selector selects along, for messages.
enum class Axis { position, head, neuron };

const char* name_of(Axis axis) {
  switch (axis) {
    case Axis::position:
      return "position";
    case Axis::head:
      return "head";
    default:
      return "neuron";
  }
}

// Where the axis lies in a value of that layout.
int place_of(Axis axis, const mx::array& x, const SiteView& at) {
  if (axis == Axis::neuron) return static_cast<int>(x.ndim()) - 1;
  if (axis == Axis::head && at.layout == Layout::heads) return 2;
  if (axis == Axis::head && at.layout == Layout::scores) return 1;
  if (axis == Axis::position && at.layout == Layout::scores) return 2;
  if (axis == Axis::position && at.layout != Layout::other && x.ndim() >= 2)
    return 1;
  fail(
      ErrorKind::usage,
      "[intervention] site '{}' of shape {} has no {} axis",
      at.name,
      shown(x.shape()),
      name_of(axis));
}

int checked(int index, int size, Axis axis, const SiteView& at) {
  if (index < -size || index >= size)
    fail(
        ErrorKind::out_of_range,
        "[intervention] {} {} of site '{}' is out of range; it has {}",
        name_of(axis),
        index,
        at.name,
        size);
  return index < 0 ? index + size : index;
}

// The indices chosen of one row, counted from 0 and none twice.
void choose(
    const std::vector<int>& indices,
    int size,
    Axis axis,
    const SiteView& at,
    std::vector<int>& into) {
  const auto first = static_cast<long>(into.size());
  for (const int index : indices)
    into.push_back(checked(index, size, axis, at));
  std::vector<int> sorted(into.begin() + first, into.end());
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end())
    fail(
        ErrorKind::usage,
        "[intervention] {} {} of site '{}' is selected twice",
        name_of(axis),
        *twice,
        at.name);
}

// Rows of the value that positions stand for: [row of the batch, count], flat.
std::vector<int> position_rows(
    const std::vector<int>& positions,
    const mx::array& x,
    int place,
    const SiteView& at) {
  std::vector<int> flat;
  if (!at.packed.empty()) {
    // What is not among the rows was edited where its sequence began.
    for (const auto& it : at.packed) {
      std::vector<int> chosen;
      choose(positions, it.total, Axis::position, at, chosen);
      for (const int p : chosen)
        if (p >= it.first && p < it.first + it.length)
          flat.push_back(it.row + p - it.first);
    }
    return flat;
  }
  // Row by row, since rows of a padded batch end at different positions.
  const int rows = at.lengths.empty() ? 1 : x.shape(0);
  for (int row = 0; row < rows; ++row) {
    const int length = at.lengths.empty()
                           ? x.shape(place)
                           : at.lengths[static_cast<size_t>(row)];
    const auto first = flat.size();
    choose(positions, at.offset + length, Axis::position, at, flat);
    for (auto i = first; i < flat.size(); ++i) {
      flat[i] -= at.offset;
      if (flat[i] < 0)
        fail(
            ErrorKind::out_of_range,
            "[intervention] position {} of site '{}' is among the {} that the "
            "cache holds already; edit it when its part of the prompt runs",
            flat[i] + at.offset,
            at.name,
            at.offset);
    }
  }
  return flat;
}

// The same on every machine and in every model that has the site (FNV-1a).
uint64_t hash_of(std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325ull;
  for (const char c : name)
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return hash;
}

Intervention select(Axis axis, std::vector<int> indices, Intervention inner) {
  if (indices.empty())
    fail(
        ErrorKind::usage,
        "[intervention] an empty list of {}s selects nothing",
        name_of(axis));
  const auto reach = axis == Axis::position && inner.reach() == Reach::value
                         ? Reach::position
                     : axis == Axis::position ? Reach::sequence
                                              : inner.reach();
  const auto apply = [axis,
                      indices = std::move(indices),
                      inner = std::move(inner)](
                         const mx::array& x, const SiteView& at) {
    const int place = place_of(axis, x, at);
    std::vector<int> flat;
    if (axis == Axis::position)
      flat = position_rows(indices, x, place, at);
    else
      choose(indices, x.shape(place), axis, at, flat);
    if (flat.empty()) return x;
    // MLX writes where it is told; a module may keep fewer than it was given.
    if (std::ranges::max(flat) >= x.shape(place))
      fail(
          ErrorKind::usage,
          "[intervention] {} {} of site '{}' is out of range: its value has "
          "{}, "
          "fewer than the prompt",
          name_of(axis),
          std::ranges::max(flat),
          at.name,
          x.shape(place));
    const bool by_row =
        axis == Axis::position && at.packed.empty() && !at.lengths.empty();
    const int rows = by_row ? x.shape(0) : 1;
    const int count = static_cast<int>(flat.size()) / rows;
    mx::Shape narrow(x.ndim(), 1);
    narrow[0] = rows;
    narrow[place] = count;
    auto selected = x.shape();
    selected[place] = count;
    const auto where =
        mx::broadcast_to(mx::array(flat.data(), narrow, mx::int32), selected);

    auto part_at = at;
    std::vector<int> lengths;
    if (axis == Axis::position) {
      lengths.assign(at.lengths.size(), count);
      part_at.lengths = lengths;
      part_at.offset = 0;
      part_at.packed = {};
    }
    const auto part = inner(mx::take_along_axis(x, where, place), part_at);
    if (part.shape() != selected)
      fail(
          ErrorKind::usage,
          "[intervention] on site '{}' the selected part has shape {}, the "
          "intervention returned {}",
          at.name,
          shown(selected),
          shown(part.shape()));
    if (part.dtype() != x.dtype())
      fail(
          ErrorKind::usage,
          "[intervention] on site '{}' the intervention returned its selected "
          "part in another dtype; cast it back",
          at.name);
    return mx::put_along_axis(x, where, part, place);
  };
  return {apply, reach};
}

}  // namespace

void Intervention::fail_empty() {
  fail(
      ErrorKind::usage,
      "[Intervention] the function is empty; give one that can be called");
}

Intervention zero_out() {
  return {[](const mx::array& x) { return mx::zeros_like(x); }, Reach::value};
}

Intervention scale(float factor) {
  return {
      [factor](const mx::array& x) {
        return mx::multiply(x, mx::array(factor, x.dtype()));
      },
      Reach::value};
}

Intervention add_vector(mx::array vector) {
  // One of more axes may hold another value for each position.
  const bool same_everywhere =
      vector.ndim() == 0 ||
      vector.size() == static_cast<size_t>(vector.shape(-1));
  const auto add = [vector = std::move(vector)](
                       const mx::array& x, const SiteView& at) {
    if (!fits(vector.shape(), x.shape()))
      fail(
          ErrorKind::usage,
          "[add_vector] a vector of shape {} does not fit site '{}' of shape "
          "{}",
          shown(vector.shape()),
          at.name,
          shown(x.shape()));
    return mx::add(x, cast(vector, x, at));
  };
  return {add, same_everywhere ? Reach::value : Reach::sequence};
}

Intervention replace_with(float value) {
  return {
      [value](const mx::array& x) {
        return mx::full(x.shape(), mx::array(value, x.dtype()));
      },
      Reach::value};
}

Intervention replace_with(mx::array value) {
  return [value = std::move(value)](const mx::array& x, const SiteView& at) {
    auto one_row = x.shape();
    if (!one_row.empty()) one_row[0] = 1;
    if (value.shape() != x.shape() && value.shape() != one_row)
      fail(
          ErrorKind::usage,
          "[replace_with] site '{}' has shape {}, the replacement {}",
          at.name,
          shown(x.shape()),
          shown(value.shape()));
    return mx::broadcast_to(cast(value, x, at), x.shape());
  };
}

Intervention clamp(std::optional<float> least, std::optional<float> most) {
  if (!least && !most)
    fail(ErrorKind::usage, "[clamp] neither a lower nor an upper bound given");
  if (least && most && !(*least <= *most))
    fail(
        ErrorKind::usage,
        "[clamp] the lower bound {} is above the upper one {}",
        *least,
        *most);
  const auto hold = [least, most](const mx::array& x) {
    const auto bound = [&](std::optional<float> value) {
      return value ? std::optional(mx::array(*value, x.dtype())) : std::nullopt;
    };
    return mx::clip(x, bound(least), bound(most));
  };
  return {hold, Reach::value};
}

Intervention noise(float std, std::optional<uint64_t> seed) {
  if (!(std >= 0))
    fail(
        ErrorKind::usage,
        "[noise] the standard deviation is {}; it must be at least 0",
        std);
  return [std, seed](const mx::array& x, const SiteView& at) {
    if (!mx::issubdtype(x.dtype(), mx::floating))
      fail(
          ErrorKind::usage,
          "[noise] site '{}' holds integers; use replace_with, or a site of "
          "floats",
          at.name);
    std::optional<mx::array> key;
    if (seed) key = mx::random::key(*seed + hash_of(at.name));
    const auto drawn = mx::random::normal(x.shape(), x.dtype(), 0.0f, std, key);
    return mx::add(x, drawn);
  };
}

Intervention compose(std::vector<Intervention> steps) {
  auto reach = Reach::value;
  for (const auto& step : steps)
    reach = std::max(reach, step.reach());
  const auto all = [steps = std::move(steps)](
                       const mx::array& x, const SiteView& at) {
    auto value = x;
    for (const auto& step : steps)
      value = step(value, at);
    return value;
  };
  return {all, reach};
}

Intervention at_positions(std::vector<int> positions, Intervention inner) {
  return select(Axis::position, std::move(positions), std::move(inner));
}

Intervention on_heads(std::vector<int> heads, Intervention inner) {
  return select(Axis::head, std::move(heads), std::move(inner));
}

Intervention on_neurons(std::vector<int> neurons, Intervention inner) {
  return select(Axis::neuron, std::move(neurons), std::move(inner));
}

}  // namespace mlxterp
