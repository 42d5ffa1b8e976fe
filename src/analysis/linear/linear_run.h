// analysis/linear/linear_run.h: one prompt's forward pass as a chain of linear
// maps, down which rows of cotangents walk.

#pragma once

#include <string>
#include <vector>

#include "analysis/linear/held.h"
#include "trace/carried_rows.h"

namespace mlxterp {

/**
 * What enters each layer of a Decoder's pass over one prompt, evaluated, with
 * what travels beside it. `transport` is the transposed Jacobian of one layer
 * there, of any number of rows at once. Where a layer makes what later ones
 * read beside the stream (shared keys and values), cotangents of that travel
 * with the rows. `model` outlives it. Evaluates. One thread.
 */
class LinearRun {
 public:
  /** `held` outlives it too, and is of the same model. */
  LinearRun(
      const InterpretableModel& model,
      const std::vector<int>& ids,
      const HeldSites& held);

  int positions() const { return positions_; }
  int layers() const { return static_cast<int>(entering_.size()); }

  /** Rows of cotangents of what leaves a layer at positions `from` and later,
   * [pos, row, d_model] in float32 (of what travels beside it [row, pos, ...]),
   * to those of what enters it. Those that are behind the rows' last position
   * are zero. Evaluated; on a GPU, where it can, in the memory of rows that are
   * given away. */
  Stream transport(int layer, Stream rows, int from) const;

  /** How many times as much memory as `rows` of those at positions [from, to)
   * `transport` takes at most, of any layer. */
  double memory(int from, int to, int rows) const;

 private:
  bool taken_apart(int layer, int from, int to, int rows) const;

  const InterpretableModel& model_;
  const HeldSites& held_;
  int positions_;
  std::vector<Stream> entering_;  // of each layer
};

}  // namespace mlxterp
