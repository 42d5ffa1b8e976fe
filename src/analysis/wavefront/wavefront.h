// analysis/wavefront/wavefront.h: many slightly changed runs of one model in
// one walk up its layers.

#pragma once

#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "analysis/readout.h"
#include "mlxterp/core/progress.h"
#include "mlxterp/trace/model.h"

namespace mlxterp {

/**
 * A sweep asks for thousands of cells what a run would give if some of its
 * values were replaced. Run one by one, each costs a forward pass. Here all
 * travel up the layers together, each from where it begins to differ:
 *
 * 1. what a cell shares with its run is never computed again: layers below its
 *    first edit, and positions before it, whose keys and values it borrows;
 * 2. an edit whose two runs share their tokens up to there changes nothing, so
 *    a cell of such edits is the run itself, as is one of edits behind the last
 *    attention at positions that the metric does not read;
 * 3. the rows of all cells lie packed, so that each matrix is read once a layer
 *    (see nn/packed_batch.h);
 * 4. behind the last attention only rows that the metric reads go on, and of
 *    the vocabulary only the tokens that it names.
 */
struct Wavefront {
  /** An unchanged run, that cells start from and take values of. */
  struct Run {
    std::vector<int> ids;
    /** What enters layer 0, [1, pos, d_model], where it is not the ids'. */
    std::optional<mlx::core::array> embedded = {};
    /** The first position where it is not. */
    int differs_from = std::numeric_limits<int>::max();
  };

  /** The values that are edited, layer by layer. */
  struct Site {
    std::vector<SiteId> ids;  ///< Of each layer.
    Layout layout = Layout::features;
    /** z, made of the other run's attention pattern and the run's own v. */
    bool from_pattern = false;
    /** Of each layer, what changes without a source take: [row, ...]. */
    std::vector<mlx::core::array> given = {};
    bool zero = false;  ///< They take zeros.
  };

  /** Where a cell is not its run: one unit (head or neuron; -1: all) of a site
   * at some positions (both ends count), replaced in some layers. */
  struct Change {
    size_t site = 0;
    int first_layer = 0, last_layer = 0;
    int from = 0, to = 0;
    int unit = -1;
    int source = -1;  ///< A run; -1: rows of `given`, from given_row on.
    int given_row = 0;
  };

  struct Cell {
    int run = 0;
    std::vector<Change> changes;
  };

  const InterpretableModel& model;
  std::vector<Run> runs;
  /** For each position of run 0's prompt, that of the sources that it takes
   * values from; empty: the same. */
  std::vector<int> position_map = {};
  std::vector<Site> sites;
  std::vector<Cell> cells;
  Readout metric;
  int reference = 0;  ///< The run that a KL divergence starts from.
  /** Values that are kept of every cell that travels. */
  std::vector<SiteId> keep = {};
  /** Cells that begin within as many positions are given the rows of the first;
   * 0: as pays off on this device. */
  int positions_together = 0;
  /** Bytes that what travels may take; 0: as many as pay off. */
  size_t memory = 0;
  Progress progress = {};

  /** A site's value in one cell, from its first position on: [pos, ...]. */
  struct Kept {
    size_t cell = 0;
    SiteId site = -1;
    int first = 0;
    mlx::core::array value;
  };

  struct Result {
    std::vector<float> runs, cells;  ///< The metric of each.
    size_t computed = 0;             ///< Cells that are not their run itself.
    /** Of each cell whether it is, whatever the values are. */
    std::vector<bool> inert;
    size_t rows = 0;  ///< Rows computed, summed over layers.
    std::vector<Kept> kept;
  };

  /** Evaluates. Throws usage where the budget does not hold one cell. */
  Result sweep() const;
};

}  // namespace mlxterp
