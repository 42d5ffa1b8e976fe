// The rows of a store in random order.

#include <algorithm>
#include <cstring>
#include <numeric>

#include "analysis/random.h"
#include "core/fail.h"
#include "mlxterp/analysis/activation_store.h"

namespace mx = mlx::core;

namespace mlxterp {

struct ShuffledRows::State {
  ActivationStore store = {};
  std::vector<StoredTensor> tensors = {};
  ShuffleOptions options = {};
  Random random{0};
  int64_t run_rows = 1;            // of each run of neighbours
  std::vector<int64_t> runs = {};  // their first rows; the last comes next
  /** The buffer: of its first `held` slots the rows and their values. */
  int64_t held = 0;
  std::vector<int64_t> rows = {};
  std::vector<std::unique_ptr<std::byte[]>> values = {};

  void fill() {
    while (!runs.empty() &&
           held + run_rows <= static_cast<int64_t>(rows.size())) {
      const auto begin = runs.back();
      const auto end = std::min(begin + run_rows, store.rows());
      runs.pop_back();
      for (size_t t = 0; t < tensors.size(); ++t)
        store.read_into(tensors[t], begin, end, slot(t, held));
      std::iota(
          rows.begin() + held, rows.begin() + held + (end - begin), begin);
      held += end - begin;
    }
  }

  std::byte* slot(size_t tensor, int64_t at) const {
    return values[tensor].get() +
           static_cast<size_t>(at) * tensors[tensor].row_bytes();
  }
};

ShuffledRows::ShuffledRows(
    ActivationStore store,
    const std::vector<std::string>& tensors,
    const ShuffleOptions& options) {
  constexpr int64_t run_rows = 64, most_rows = int64_t{1} << 31;
  if (options.batch_size < 1 || options.buffer_rows < options.batch_size ||
      options.buffer_rows > most_rows)
    fail(
        ErrorKind::usage,
        "[activation_store] batches of {} rows from a buffer of {}; give at "
        "least one row, and a buffer of at least a batch",
        options.batch_size,
        options.buffer_rows);
  std::vector<StoredTensor> chosen;
  for (const auto& name : tensors)
    chosen.push_back(store.tensor(name));
  if (chosen.empty())
    for (const auto& tensor : store.tensors())
      chosen.push_back(tensor);
  const auto slots = std::min(options.buffer_rows, store.rows());
  state_ = std::make_unique<State>();
  auto& it = *state_;
  it.store = std::move(store);
  it.tensors = std::move(chosen);
  it.options = options;
  it.random = Random(options.seed);
  it.run_rows = std::min(slots, run_rows);
  it.rows.resize(static_cast<size_t>(slots));
  for (int64_t begin = 0; begin < it.store.rows(); begin += it.run_rows)
    it.runs.push_back(begin);
  it.random.shuffle(it.runs, it.runs.size());
  for (const auto& tensor : it.tensors)
    it.values.push_back(std::make_unique_for_overwrite<std::byte[]>(
        static_cast<size_t>(slots) * tensor.row_bytes()));
}

ShuffledRows::ShuffledRows(ShuffledRows&&) noexcept = default;
ShuffledRows::~ShuffledRows() = default;

std::optional<StoredRows> ShuffledRows::next() {
  auto& it = *state_;
  StoredRows out;
  std::vector<std::unique_ptr<std::byte[]>> taken;
  for (const auto& tensor : it.tensors)
    taken.push_back(std::make_unique_for_overwrite<std::byte[]>(
        static_cast<size_t>(it.options.batch_size) * tensor.row_bytes()));
  for (int i = 0; i < it.options.batch_size; ++i) {
    it.fill();
    if (it.held == 0) break;
    const auto at =
        static_cast<int64_t>(it.random.below(static_cast<size_t>(it.held)));
    out.rows.push_back(it.rows[static_cast<size_t>(at)]);
    // The last one fills the gap.
    --it.held;
    it.rows[static_cast<size_t>(at)] = it.rows[static_cast<size_t>(it.held)];
    for (size_t t = 0; t < it.tensors.size(); ++t) {
      const auto bytes = it.tensors[t].row_bytes();
      std::memcpy(
          taken[t].get() + static_cast<size_t>(i) * bytes,
          it.slot(t, at),
          bytes);
      if (at != it.held)
        std::memcpy(it.slot(t, at), it.slot(t, it.held), bytes);
    }
  }
  if (out.rows.empty()) return {};
  for (size_t t = 0; t < it.tensors.size(); ++t) {
    mx::Shape shape = {static_cast<int>(out.rows.size())};
    shape.insert(
        shape.end(), it.tensors[t].shape.begin(), it.tensors[t].shape.end());
    out.values.emplace_back(
        it.tensors[t].name,
        mx::array(
            taken[t].release(), shape, it.tensors[t].dtype, [](void* bytes) {
              delete[] static_cast<std::byte*>(bytes);
            }));
  }
  return out;
}

}  // namespace mlxterp
