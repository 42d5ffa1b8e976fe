// analysis/edges/runs.h: what the edges of one pair of runs are made of: the
// sources' differences and the destinations' gradients.

#pragma once

#include <optional>
#include <vector>

#include "analysis/edges/graph.h"
#include "analysis/pairs.h"
#include "analysis/readout.h"
#include "trace/carried_rows.h"

namespace mlxterp {

/** Both runs of a pair, and what they measure; lazy. */
struct EdgeRuns {
  mlx::core::array base, other;  ///< The metric.
  /** What enters layer 0, of the base run and the other, [2, pos, d_model]. */
  Stream embedded;
  /** Of each source, other less base, [source, pos, d_model], float32, from
   * the first position on where the two differ. */
  mlx::core::array differences;
  int from = 0;  ///< That position.
  std::optional<mlx::core::array> reference = {};
};

/** What is added where sources write, [point, pos, d_model]. */
struct EdgeShift {
  SiteId site;
  mlx::core::array change;
};

/** What one run's residual stream is made of; lazy. */
struct EdgeParts {
  /** What each source adds, [source, pos, d_model], float32, in the units of a
   * stream that no layer has multiplied. */
  mlx::core::array added;
  /** By reader, what it reads before any norm, [pos, d_model], float32. */
  std::vector<mlx::core::array> streams;
};

class EdgeRunner {
 public:
  EdgeRunner(
      const InterpretableModel& model, const EdgeGraph& graph, bool ungrouped)
      : model_(model),
        decoder_(model.decoder()),
        graph_(graph),
        ungrouped_(ungrouped) {}

  /** `denoise`: the other run is the clean one. Lazy. */
  EdgeRuns both(const Pair& pair, const Readout& metric, bool denoise) const;

  EdgeParts parts(const std::vector<int>& ids) const;

  /** Of each reader the gradients by its copies of the stream, [copy, pos,
   * d_model], float32, added up over the points: the rows of x, what enters
   * layer 0, with `shift` in each. From position `from` on. Lazy. */
  std::vector<mlx::core::array> gradients(
      const Stream& points,
      const std::vector<int>& ids,
      const Readout& metric,
      const std::optional<mlx::core::array>& reference,
      int from,
      const std::optional<EdgeShift>& shift = {}) const;

 private:
  mlx::core::array written(
      const EdgeWriter& writer,
      const mlx::core::array& value,
      const std::optional<mlx::core::array>& scale) const;
  mlx::core::array pulled(
      const EdgeReader& reader,
      mlx::core::array gradient,
      const mlx::core::array& stream,
      int from) const;
  std::vector<mlx::core::array> by_query_head(
      int layer,
      const mlx::core::array& read,
      const mlx::core::array& of_z) const;

  const InterpretableModel& model_;
  const Decoder& decoder_;
  const EdgeGraph& graph_;
  bool ungrouped_;
};

}  // namespace mlxterp
