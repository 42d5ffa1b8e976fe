// analysis/edges/exact.h: what each edge does, by running it.

#pragma once

#include <functional>
#include <vector>

#include "analysis/edges/runs.h"
#include "mlxterp/core/progress.h"

namespace mlxterp {

/** Every edge of one pair of runs by a wavefront: the destination reads the
 * base run's stream with the source's difference, everything behind it is
 * computed anew. */
struct ExactEdges {
  const InterpretableModel& model;
  const EdgeGraph& graph;
  bool ungrouped = false;
  const Pair& pair;
  const EdgeRuns& runs;
  const Readout& metric;
  bool denoise = true;
  /** Told of each edge: its numbers and how the base run's metric changes. */
  std::function<void(size_t source, size_t destination, double change)> found;
  /** Which edges are run, [source, destination]; empty: all. */
  std::vector<bool> chosen = {};
  std::function<void(double done)> report = {};

  /** Throws usage where layers share keys and values. Evaluates. */
  void sweep() const;

 private:
  bool wanted(size_t source, size_t destination) const;
  /** [source, pos, d_model], whole, for readers of that layer. */
  mlx::core::array differences(int layer, int from, int to) const;
  void of_reader(
      const EdgeReader& reader,
      const mlx::core::array& stream,
      const Carried& carried) const;
  void of_logits(
      const EdgeReader& reader, const mlx::core::array& stream) const;
};

}  // namespace mlxterp
