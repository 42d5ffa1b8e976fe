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
enum class Axis { prompt, position, head, neuron };

const char* name_of(Axis axis) {
  switch (axis) {
    case Axis::prompt:
      return "prompt";
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
  if (axis == Axis::prompt && x.ndim() >= 1) return 0;
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

// An index counted from 0; a negative one counts from `end`.
int checked(int index, int size, int end, Axis axis, const SiteView& at) {
  if (index < -end || index >= size)
    fail(
        ErrorKind::out_of_range,
        "[intervention] {} {} of site '{}' is out of range; it has {}",
        name_of(axis),
        index,
        at.name,
        index < 0 ? end : size);
  return index < 0 ? index + end : index;
}

// The indices chosen of one row, counted from 0 and none twice.
void choose(
    const std::vector<int>& indices,
    int size,
    int end,
    Axis axis,
    const SiteView& at,
    std::vector<int>& into) {
  const auto first = static_cast<long>(into.size());
  for (const int index : indices)
    into.push_back(checked(index, size, end, axis, at));
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
    if (!at.positions.empty())
      fail(
          ErrorKind::usage,
          "[intervention] positions of site '{}' are selected twice while text "
          "is generated; name them once",
          at.name);
    // What is not among the rows was edited where its sequence began.
    for (const auto& it : at.packed) {
      std::vector<int> chosen;
      const int end = it.prompt < 0 ? it.total : it.prompt;
      choose(positions, it.total, end, Axis::position, at, chosen);
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
    const int total = at.offset + length;
    choose(positions, total, total, Axis::position, at, flat);
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

// What a part of some rows is: lengths, positions and sequences of its own.
struct PartView {
  PartView(
      const SiteView& whole, const std::vector<int>& flat, int count, Axis axis)
      : view(whole) {
    if (axis == Axis::prompt && !whole.lengths.empty())
      for (const int row : flat)
        lengths.push_back(whole.lengths[static_cast<size_t>(row)]);
    if (axis == Axis::position) {
      lengths.assign(whole.lengths.size(), count);
      for (const int row : flat)
        positions.push_back(
            whole.positions.empty()
                ? whole.offset + row
                : whole.positions[static_cast<size_t>(row)]);
      view.offset = 0;
    }
    view.lengths = lengths;
    if (!whole.packed.empty()) pack(whole, flat);
    view.positions = positions;
    view.packed = packed;
  }
  PartView(const PartView&) = delete;
  PartView& operator=(const PartView&) = delete;
  PartView(PartView&&) = delete;
  PartView& operator=(PartView&&) = delete;
  ~PartView() = default;

  SiteView view;
  std::vector<int> lengths, positions;
  std::vector<PackedRows> packed;

 private:
  // Each row is a stretch of its own, where it has to know its prompt.
  void pack(const SiteView& whole, const std::vector<int>& flat) {
    positions.clear();
    for (const int row : flat)
      for (auto it : whole.packed) {
        if (row < it.row || row >= it.row + it.length) continue;
        it.first += row - it.row;
        positions.push_back(it.first);
        it.row = static_cast<int>(packed.size());
        it.length = 1;
        packed.push_back(it);
        break;
      }
    if (packed.empty() || packed.front().prompt < 0) packed.clear();
  }
};

// `inner` on entries of one axis: [row of the batch, count], or the same ones
// in each row.
mx::array on_part(
    const Intervention& inner,
    Axis axis,
    const std::vector<int>& flat,
    const mx::array& x,
    const SiteView& at) {
  if (flat.empty()) return x;
  const int place = place_of(axis, x, at);
  // MLX writes where it is told; a module may keep fewer than it was given.
  if (std::ranges::max(flat) >= x.shape(place))
    fail(
        ErrorKind::usage,
        "[intervention] {} {} of site '{}' is out of range: its value has {}, "
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

  const bool of_rows = axis == Axis::position || axis == Axis::prompt;
  const PartView part_at(at, of_rows ? flat : std::vector<int>{}, count, axis);
  const auto given = mx::take_along_axis(x, where, place);
  const auto part = inner(given, of_rows ? part_at.view : at);
  if (part.id() == given.id()) return x;
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
}

// Rows of packed sequences, by what is asked of each position.
template <typename Asked>
std::vector<int> packed_rows(const SiteView& at, const Asked& asked) {
  std::vector<int> flat;
  for (const auto& it : at.packed)
    for (int i = 0; i < it.length; ++i)
      if (asked(it, it.first + i)) flat.push_back(it.row + i);
  return flat;
}

mx::array on_rows(
    const Intervention& inner,
    const std::vector<int>& flat,
    const mx::array& x,
    const SiteView& at) {
  int rows = 0;
  for (const auto& it : at.packed)
    rows += it.length;
  if (static_cast<int>(flat.size()) == rows) return inner(x, at);
  // These rows are sequences still, whose positions count from their prompt's
  // beginning; those that a selector took would count anew.
  const Intervention by_sequence(
      [&inner](const mx::array& part, const SiteView& of) {
        auto own = of;
        own.positions = {};
        return inner(part, own);
      });
  return on_part(by_sequence, Axis::position, flat, x, at);
}

// How far a selection of rows reaches.
Reach reach_of_rows(const Intervention& inner) {
  return inner.reach() == Reach::value ? Reach::position : Reach::sequence;
}

Intervention select(Axis axis, std::vector<int> indices, Intervention inner) {
  if (indices.empty())
    fail(
        ErrorKind::usage,
        "[intervention] an empty list of {}s selects nothing",
        name_of(axis));
  const auto reach =
      axis == Axis::position ? reach_of_rows(inner) : inner.reach();
  const auto apply =
      [axis, indices = std::move(indices), inner = std::move(inner)](
          const mx::array& x, const SiteView& at) {
        const int place = place_of(axis, x, at);
        std::vector<int> flat;
        if (axis == Axis::position)
          flat = position_rows(indices, x, place, at);
        else
          choose(indices, x.shape(place), x.shape(place), axis, at, flat);
        return on_part(inner, axis, flat, x, at);
      };
  return {apply, reach};
}

// Gaussian noise of one position, of that shape; the position axis has length
// 1. Of scores, as many sources as it sees, so that it does not depend on what
// comes later.
mx::array noise_at(
    int position,
    mx::Shape shape,
    const mx::array& x,
    float std,
    uint64_t seed,
    const SiteView& at) {
  const auto key = mx::random::key(
      seed + hash_of(at.name) +
      static_cast<uint64_t>(position) * 0x9E3779B97F4A7C15ull);
  const bool scores = at.layout == Layout::scores;
  const int all = shape.back(), seen = std::min(all, position + 1);
  if (scores) shape.back() = seen;
  auto drawn = mx::random::normal(shape, x.dtype(), 0.0f, std, key);
  if (!scores || seen == all) return drawn;
  return mx::pad(drawn, std::vector<int>{-1}, {0}, {all - seen});
}

// The same for every row of a batch, where their positions are.
mx::array seeded_noise(
    const mx::array& x, float std, uint64_t seed, const SiteView& at) {
  const int place = at.layout == Layout::scores ? 2 : 1;
  if (x.ndim() < 2 || x.shape(place) == 0)
    return mx::random::normal(
        x.shape(),
        x.dtype(),
        0.0f,
        std,
        mx::random::key(seed + hash_of(at.name)));
  const int n = x.shape(place);
  auto shape = x.shape();
  shape[0] = shape[static_cast<size_t>(place)] = 1;
  const auto of_row = [&](const std::vector<int>& positions) {
    std::vector<mx::array> parts;
    for (const int position : positions)
      parts.push_back(noise_at(position, shape, x, std, seed, at));
    return parts.size() == 1 ? parts[0]
                             : mx::concatenate(std::move(parts), place);
  };
  std::vector<int> positions(at.positions.begin(), at.positions.end());
  if (!at.packed.empty() && positions.empty())
    for (const auto& it : at.packed)
      for (int i = 0; i < it.length; ++i)
        positions.push_back(it.first + i);
  if (positions.empty())
    for (int i = 0; i < n; ++i)
      positions.push_back(at.offset + i);
  std::vector<mx::array> rows;
  for (size_t i = 0; i + static_cast<size_t>(n) <= positions.size();
       i += static_cast<size_t>(n)) {
    const auto from = positions.begin() + static_cast<long>(i);
    rows.push_back(of_row({from, from + n}));
  }
  return rows.size() == 1 ? rows[0] : mx::concatenate(std::move(rows), 0);
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
          "[replace_with] site '{}' has shape {}, the replacement {}{}",
          at.name,
          shown(x.shape()),
          shown(value.shape()),
          at.step > 0 ? "; let it act during the prompt" : "");
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
  const auto add = [std, seed](const mx::array& x, const SiteView& at) {
    if (!mx::issubdtype(x.dtype(), mx::floating))
      fail(
          ErrorKind::usage,
          "[noise] site '{}' holds integers; use replace_with, or a site of "
          "floats",
          at.name);
    if (seed) return mx::add(x, seeded_noise(x, std, *seed, at));
    return mx::add(x, mx::random::normal(x.shape(), x.dtype(), 0.0f, std));
  };
  return {add, seed ? Reach::position : Reach::sequence};
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

Intervention on_prompts(std::vector<int> prompts, Intervention inner) {
  const auto reach = reach_of_rows(inner);
  const auto plain = select(Axis::prompt, prompts, inner);
  const auto apply = [prompts = std::move(prompts),
                      inner = std::move(inner),
                      plain](const mx::array& x, const SiteView& at) {
    if (at.packed.empty()) return plain(x, at);
    if (at.packed.front().prompt < 0)
      fail(
          ErrorKind::usage,
          "[on_prompts] a sweep does not know the prompts of a batch apart; "
          "edit the prompts in traces, or sweep each by itself");
    const auto flat =
        packed_rows(at, [&](const PackedRows& it, int /*position*/) {
          return std::ranges::any_of(prompts, [&](int prompt) {
            const int end = at.batch;
            return it.index == checked(prompt, end, end, Axis::prompt, at);
          });
        });
    return on_rows(inner, flat, x, at);
  };
  return {apply, reach};
}

Intervention during(When when, Intervention inner) {
  if (when.first < 0 || when.last < when.first)
    fail(
        ErrorKind::usage,
        "[during] steps {} to {} are none; step 0 is the prompt",
        when.first,
        when.last);
  const auto reach = reach_of_rows(inner);
  const auto apply = [when, inner = std::move(inner)](
                         const mx::array& x, const SiteView& at) {
    if (at.packed.empty() || at.packed.front().prompt < 0) {
      if (when.first == 0) return inner(x, at);
      fail(
          ErrorKind::usage,
          "[during] the edit at site '{}' acts from step {} of generation on, "
          "and this pass generates nothing; generate, or let it act in the "
          "prompt",
          at.name,
          when.first);
    }
    const auto flat = packed_rows(at, [&](const PackedRows& it, int position) {
      const int step = std::max(0, position - it.prompt + 1);
      return step >= when.first && step <= when.last;
    });
    return on_rows(inner, flat, x, at);
  };
  return {apply, reach};
}

Intervention on_heads(std::vector<int> heads, Intervention inner) {
  return select(Axis::head, std::move(heads), std::move(inner));
}

Intervention on_neurons(std::vector<int> neurons, Intervention inner) {
  return select(Axis::neuron, std::move(neurons), std::move(inner));
}

}  // namespace mlxterp
