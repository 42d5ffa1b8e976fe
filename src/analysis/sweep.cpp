#include "mlxterp/analysis/sweep.h"

#include <algorithm>
#include <cmath>

#include "core/fail.h"

namespace mlxterp {

const char* name(Axis axis) {
  switch (axis) {
    case Axis::layer:
      return "layer";
    case Axis::position:
      return "pos";
    case Axis::head:
      return "head";
    case Axis::neuron:
      break;
  }
  return "neuron";
}

std::vector<int> Sweep::shape() const {
  std::vector<int> out;
  for (const auto& axis : axes)
    out.push_back(static_cast<int>(axis.values.size()));
  return out;
}

std::vector<float> Sweep::effect() const {
  const bool denoise = direction == Direction::denoise;
  const float from = denoise ? corrupt : clean, to = denoise ? clean : corrupt;
  const float way = to - from;
  // Below that the difference is that of sums in another order.
  constexpr float noise = 1e-5f;
  if (!(std::abs(way) > noise * std::max(std::abs(from), std::abs(to))))
    fail(
        ErrorKind::usage,
        "[Sweep] the metric is {} of the clean and {} of the corrupted run: "
        "there is nothing to normalise by; read the metric itself, or delta",
        clean,
        corrupt);
  auto out = metric;
  for (auto& value : out)
    value = (value - from) / way;
  return out;
}

std::vector<float> Sweep::delta() const {
  const float from = direction == Direction::denoise ? corrupt : clean;
  auto out = metric;
  for (auto& value : out)
    value -= from;
  return out;
}

}  // namespace mlxterp
