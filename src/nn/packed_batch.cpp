#include "mlxterp/nn/packed_batch.h"

#include <algorithm>

#include "core/fail.h"
#include "mlx/ops.h"
#include "mlxterp/nn/pass.h"

namespace mlxterp {

mlx::core::array Pass::gather_output_rows(const mlx::core::array& x) const {
  return last_ ? mlx::core::take(x, *last_, 1) : x;
}

const mlx::core::array& find(const Carried& carried, const std::string& name) {
  const auto found = carried.find(name);
  if (found == carried.end())
    fail(
        ErrorKind::usage,
        "[Pass] a layer reads '{}', which an earlier part of the model makes; "
        "run that before it, in this pass",
        name);
  return found->second;
}

Pass::Arrays Pass::on_sequences(
    Arrays x, const std::function<Arrays(const Arrays&)>& mix) const {
  namespace mx = mlx::core;
  if (!packed_) return mix(x);
  const auto ints = [](const std::vector<int>& values) {
    return mx::array(
        values.data(), {static_cast<int>(values.size())}, mx::int32);
  };
  const auto whole = ints(packed_->whole()), places = ints(packed_->places());
  const auto n = static_cast<int>(packed_->sequences.size());
  for (auto& rows : x) {
    auto shape = rows.shape();
    shape[0] = n;
    shape[1] = whole.shape(0) / n;
    rows = mx::reshape(mx::take(rows, whole, 1), shape);
  }
  auto out = mix(x);
  for (auto& y : out) {
    auto shape = y.shape();
    shape[0] = 1;
    shape[1] = -1;
    y = mx::take(mx::reshape(y, shape), places, 1);
  }
  return out;
}

namespace nn {

std::vector<int> PackedBatch::positions() const {
  std::vector<int> all;
  all.reserve(static_cast<size_t>(rows()));
  for (const auto& sequence : sequences)
    for (int i = 0; i < sequence.length; ++i)
      all.push_back(sequence.first + i);
  return all;
}

namespace {

// The positions of the longest sequence, those it continues counted.
int length_of_all(const PackedBatch& packed) {
  int most = 0;
  for (const auto& it : packed.sequences)
    most = std::max(most, it.first + it.length);
  return most;
}

}  // namespace

std::vector<int> PackedBatch::whole() const {
  const int length = length_of_all(*this);
  std::vector<int> all;
  all.reserve(sequences.size() * static_cast<size_t>(length));
  for (const auto& it : sequences)
    for (int position = 0; position < length; ++position) {
      const int own = std::min(position - it.first, it.length - 1);
      all.push_back(own < 0 ? it.prefix_row + position : it.row + own);
    }
  return all;
}

std::vector<int> PackedBatch::places() const {
  const int length = length_of_all(*this);
  std::vector<int> all;
  all.reserve(static_cast<size_t>(rows()));
  for (size_t i = 0; i < sequences.size(); ++i)
    for (int own = 0; own < sequences[i].length; ++own)
      all.push_back(static_cast<int>(i) * length + sequences[i].first + own);
  return all;
}

}  // namespace nn
}  // namespace mlxterp
