#include "analysis/wavefront/metric_reader.h"

#include <algorithm>
#include <iterator>
#include <numeric>

#include "analysis/int_array.h"
#include "mlx/ops.h"

namespace mx = mlx::core;

namespace mlxterp {

namespace {

constexpr size_t logits_budget = size_t{256} << 20;

size_t size(int n) {
  return static_cast<size_t>(n);
}

}  // namespace

void MetricReader::read(const Walk& walk) {
  const auto& sequences = walk.packed().sequences;
  const size_t runs = wave_.runs.size();
  if (wave_.metric.whole_run || walk.whole_head()) return read_whole(walk);
  // Of each sequence, the rows of `out` read and what they should say next.
  std::vector<int> rows, targets;
  std::vector<size_t> owner;
  const bool every = wave_.metric.every_position();
  for (size_t i = 0; i < sequences.size(); ++i) {
    const int run =
        i < runs ? static_cast<int>(i) : walk.travelling()[i - runs]->run;
    const auto& ids = wave_.runs[size(run)].ids;
    if (!every) {
      rows.push_back(static_cast<int>(i));
      owner.push_back(i);
      continue;
    }
    const auto& it = sequences[i];
    for (int j = 0; j + 1 < it.length; ++j) {
      rows.push_back(it.row + j);
      owner.push_back(i);
      targets.push_back(ids[size(it.first + j + 1)]);
    }
  }
  const auto values = measured(walk, rows, targets);

  if (!every) {
    if (!read_runs_) std::copy_n(values.begin(), runs, result_.runs.begin());
    for (size_t i = runs; i < sequences.size(); ++i)
      result_.cells[walk.travelling()[i - runs]->cell] = values[i];
  } else {
    read_means(walk, owner, values);
  }
  read_runs_ = true;
}

void MetricReader::read_whole(const Walk& walk) {
  const auto& sequences = walk.packed().sequences;
  const size_t runs = wave_.runs.size();
  const auto& metric = wave_.metric;
  std::vector<mx::array> all(sequences.size(), mx::array(0));
  for (size_t i = 0; i < sequences.size(); ++i) {
    const auto& it = sequences[i];
    const int length = it.first + it.length;
    std::vector<int> rows(size(length));
    const auto own = rows.begin() + it.first;
    std::iota(rows.begin(), own, it.prefix_row);
    std::iota(own, rows.end(), it.row);
    all[i] =
        logits(mx::take(walk.out(), int_array(rows), 1), {.lengths = {length}});
    if (metric.needs_reference() && !reference_ && i == size(wave_.reference)) {
      reference_ = mx::take(all[i], metric.position_in(length), 0);
      reference_->eval();
    }
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    const int run =
        i < runs ? static_cast<int>(i) : walk.travelling()[i - runs]->run;
    (i < runs ? result_.runs[i]
              : result_.cells[walk.travelling()[i - runs]->cell]) =
        of_run(all[i], wave_.runs[size(run)].ids);
  }
}

float MetricReader::of_run(
    const mx::array& all, const std::vector<int>& ids) const {
  const auto& metric = wave_.metric;
  if (metric.whole_run) return metric.values(all, {}, {}).item<float>();
  const int n = all.shape(0);
  if (metric.every_position())
    return mx::mean(metric.values(
                        mx::slice(all, {0, 0}, {n - 1, all.shape(1)}),
                        {},
                        {ids.begin() + 1, ids.end()}))
        .item<float>();
  const int at = metric.position_in(n);
  return metric
      .values(mx::slice(all, {at, 0}, {at + 1, all.shape(1)}), reference_, {})
      .item<float>();
}

void MetricReader::read_means(
    const Walk& walk,
    const std::vector<size_t>& owner,
    const std::vector<float>& values) {
  const auto& sequences = walk.packed().sequences;
  const size_t runs = wave_.runs.size();
  std::vector<std::vector<double>> sums(runs);  // of the first n positions
  for (size_t i = 0; i < runs; ++i)
    sums[i].push_back(0);
  std::vector<double> own(sequences.size(), 0);
  for (size_t i = 0; i < values.size(); ++i) {
    const auto value = static_cast<double>(values[i]);
    own[owner[i]] += value;
    if (owner[i] < runs)
      sums[owner[i]].push_back(sums[owner[i]].back() + value);
  }
  for (size_t i = 0; i < sequences.size(); ++i) {
    const bool is_run = i < runs;
    const Plan* plan = is_run ? nullptr : walk.travelling()[i - runs];
    const size_t run = is_run ? i : size(plan->run);
    const auto n = static_cast<double>(wave_.runs[run].ids.size() - 1);
    const double before = is_run ? 0 : sums[run][size(sequences[i].first)];
    (is_run ? result_.runs[i] : result_.cells[plan->cell]) =
        static_cast<float>((before + own[i]) / n);
  }
}

mx::array MetricReader::logits(const mx::array& x, PassRows rows) const {
  return mx::astype(
      mx::squeeze(
          Stepper(wave_.model, nullptr, std::move(rows))
              .head(x, wave_.metric.columns()),
          0),
      mx::float32);
}

PassRows MetricReader::rows_of(const Walk& walk, const std::vector<int>& rows) {
  const auto all = walk.rows();
  PassRows out;
  if (all.packed.empty()) return out;
  for (const int row : rows) {
    auto it = all.kept[walk.all_rows() ? 0 : size(row)];
    if (walk.all_rows()) {
      it = *std::prev(
          std::ranges::upper_bound(all.packed, row, {}, &PackedRows::row));
      it.first += row - it.row;
    }
    out.packed.push_back(
        {static_cast<int>(out.packed.size()), 1, it.first, it.total});
  }
  return out;
}

std::vector<float> MetricReader::measured(
    const Walk& walk,
    const std::vector<int>& rows,
    const std::vector<int>& targets) {
  const auto& out = walk.out();
  const auto logits_of = [&](const std::vector<int>& some) {
    return logits(mx::take(out, int_array(some), 1), rows_of(walk, some));
  };
  const auto columns = wave_.metric.columns();
  if (wave_.metric.needs_reference() && !reference_) {
    reference_ = mx::squeeze(logits_of({wave_.reference}), 0);
    reference_->eval();
  }
  const size_t width = columns.empty()
                           ? size(wave_.model.decoder().config().vocab)
                           : columns.size();
  const size_t chunk =
      std::max<size_t>(1, logits_budget / (width * sizeof(float)));
  std::vector<float> all;
  for (size_t i = 0; i < rows.size(); i += chunk) {
    const auto at = static_cast<long>(i);
    const auto to = static_cast<long>(std::min(rows.size(), i + chunk));
    const std::vector<int> some(rows.begin() + at, rows.begin() + to);
    std::vector<int> next;
    if (!targets.empty())
      next.assign(targets.begin() + at, targets.begin() + to);
    auto values =
        mx::contiguous(wave_.metric.values(logits_of(some), reference_, next));
    values.eval();
    all.insert(
        all.end(), values.data<float>(), values.data<float>() + values.size());
  }
  return all;
}

}  // namespace mlxterp
