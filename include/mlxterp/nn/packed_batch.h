// mlxterp/nn/packed_batch.h: several sequences of one pass, packed row behind
// row.

#pragma once

#include <memory>
#include <vector>

namespace mlxterp::nn {

struct KvCache;

/**
 * How the rows of a pass over [1, row, d] belong together. Everything but
 * mixers and rotation works row by row and need not know. A value; a pass
 * shares one that no longer changes.
 *
 * A sequence may begin in the middle of another one: the positions before its
 * first are then those of that other sequence, whose rows lie in the same pass.
 * So a run that differs from another from some position on costs only what
 * differs.
 */
struct PackedBatch {
  struct Sequence {
    int row = 0;         ///< Where its rows lie.
    int length = 0;      ///< How many.
    int first = 0;       ///< The position of its first row.
    int prefix_row = 0;  ///< The row of the position 0 that it continues.
    /** What it goes on from instead, of attention's alone; its own rows are
     * added. Of all sequences of a pass or of none. */
    KvCache* cache = nullptr;
  };
  std::vector<Sequence> sequences;  ///< They cover all rows, in order.
  /** What they go on from together, where each is one row and none has a cache
   * of its own: [sequence, ...], all at the same position, in front of whose
   * own ones so many places hold nothing. */
  KvCache* joint = nullptr;
  std::vector<int> padding = {};
  int longest = 0;  ///< The largest position and one: what rotation goes by.

  int rows() const {
    return sequences.empty() ? 0
                             : sequences.back().row + sequences.back().length;
  }
  /** Whether its sequences have caches. */
  bool cached() const {
    return joint || (!sequences.empty() && sequences[0].cache);
  }

  /** The position of each row. */
  std::vector<int> positions() const;

  /** The rows of each sequence from its position 0 on, with those it continues:
   * [sequence, longest]. Behind the end of a shorter one its last is repeated,
   * where nothing causal looks. */
  std::vector<int> whole() const;
  /** Where in such a batch each row of the pack is. */
  std::vector<int> places() const;
};

}  // namespace mlxterp::nn
