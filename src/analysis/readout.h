// analysis/readout.h: a metric with its tokens looked up, ready to read rows of
// logits.

#pragma once

#include <optional>
#include <vector>

#include "mlxterp/analysis/metric.h"

namespace mlxterp {

struct Readout {
  Metric::Kind kind = Metric::Kind::logit;
  int token = 0, foil = 0;
  int position = -1;
  std::function<mlx::core::array(const mlx::core::array&)> function;
  std::string name;
  bool whole_run = false;

  /** The only logits it reads, in this order; empty: all. */
  std::vector<int> columns() const;
  bool every_position() const {
    return kind == Metric::Kind::loss || whole_run;
  }
  bool needs_reference() const { return kind == Metric::Kind::kl_divergence; }
  /** Where it reads a prompt of that length. Throws out_of_range. */
  int position_in(int length) const;

  /** The logits it reads of a run, float32 [vocab]. `logits`: [1, pos, vocab].
   * Throws out_of_range. */
  mlx::core::array row_of(const mlx::core::array& logits) const;

  /** What it says of a run of `ids`, whose logits are [1, pos, vocab]: one
   * number, lazy. */
  mlx::core::array lazily(
      const mlx::core::array& logits,
      const std::vector<int>& ids,
      const std::optional<mlx::core::array>& reference) const;
  /** The same. Evaluates. */
  float of_run(
      const mlx::core::array& logits,
      const std::vector<int>& ids,
      const std::optional<mlx::core::array>& reference) const {
    return lazily(logits, ids, reference).item<float>();
  }

  /** [row] float32, lazy. `logits`: [row, column], of columns() where there are
   * any. `reference`: logits [vocab] of the clean run. `targets`: the next
   * token of each row. Where it reads a whole run: all its rows, to [1]. */
  mlx::core::array values(
      const mlx::core::array& logits,
      const std::optional<mlx::core::array>& reference,
      const std::vector<int>& targets) const;
};

/** For one prompt of several. Throws unknown_name, out_of_range, usage. */
Readout readout(
    const InterpretableModel& model,
    const Metric& metric,
    size_t prompt = 0,
    size_t prompts = 1);

}  // namespace mlxterp
