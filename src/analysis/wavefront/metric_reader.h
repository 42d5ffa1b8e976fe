// analysis/wavefront/metric_reader.h: what the metric says of cells that have
// travelled.

#pragma once

#include <optional>
#include <vector>

#include "analysis/wavefront/walk.h"
#include "analysis/wavefront/wavefront.h"

namespace mlxterp {

/** Reads the metric of the runs, once, and of the cells of each walk, into
 * `result`. Evaluates. */
class MetricReader {
 public:
  MetricReader(const Wavefront& wave, Wavefront::Result& result)
      : wave_(wave), result_(result) {}

  void read(const Walk& walk);

 private:
  // Of each sequence all rows, those before a cell's first being its run's.
  void read_whole(const Walk& walk);

  // The metric of a whole run's logits, [pos, column].
  float of_run(const mlx::core::array& all, const std::vector<int>& ids) const;

  // Means over positions; those before a cell's first are its run's.
  void read_means(
      const Walk& walk,
      const std::vector<size_t>& owner,
      const std::vector<float>& values);

  // Of rows x [1, row, d_model] the columns that the metric reads, float32.
  mlx::core::array logits(const mlx::core::array& x, PassRows rows) const;

  // How some of the walk's rows out() lie, for what stands.
  static PassRows rows_of(const Walk& walk, const std::vector<int>& rows);

  std::vector<float> measured(
      const Walk& walk,
      const std::vector<int>& rows,
      const std::vector<int>& targets);

  const Wavefront& wave_;
  Wavefront::Result& result_;
  std::optional<mlx::core::array> reference_;
  bool read_runs_ = false;
};

}  // namespace mlxterp
