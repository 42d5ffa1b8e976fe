// mlxterp/nn/kv_cache.h: what mixers keep of positions already run, so that a
// prompt can go on without running them again.

#pragma once

#include <optional>
#include <vector>

#include "mlx/array.h"

namespace mlxterp::nn {

/**
 * What each mixer of one model made of the positions so far: attention its keys
 * and values, others what they go on from. A plain value:
 * a copy is a snapshot to go on from in two ways, and the arrays are shared. It
 * is filled by passes that carry it (see Pass) and belongs to the model that
 * filled it first. Lazy where the pass that filled it was not evaluated.
 *
 * Keys are kept as they were rotated. Where that depends on the length of the
 * prompt (Rope::longer, Rope::dynamic) a pass that would rotate them
 * differently is refused: cached values would differ too, so start again, with
 * an empty cache and the whole prompt.
 */
struct KvCache {
  struct Layer {
    const void* attention;  ///< Whose these are.
    /** [batch, kv_head, room, d_head]: the positions held, and room behind
     * them, so that one more is written in place. */
    mlx::core::array k, v;
    int positions;  ///< That it has seen.
    int held;       ///< Of those, the last so many.
  };
  /** Keys and values, [batch, kv_head, pos, d_head]. */
  struct Sources {
    mlx::core::array k, v;
  };
  /** What a mixer that is no attention goes on from. */
  struct State {
    const void* mixer;                     ///< Whose it is.
    int positions;                         ///< That it knows.
    std::vector<mlx::core::array> values;  ///< [batch, ...] each.
  };
  std::vector<Layer> layers;  ///< In the order of the pass.
  std::vector<State> states;  ///< Likewise.
  /** Attention with a window keeps what its window reaches and no more: memory
   * no longer grows there, and scores and patterns of later positions have
   * those sources alone. */
  bool forgets = false;

  /** How many positions it has seen. */
  int positions() const {
    if (!layers.empty()) return layers.front().positions;
    return states.empty() ? 0 : states.front().positions;
  }

  /**
   * Puts new positions behind those of `attention`, of which there must be
   * `seen`, and returns all of them; where it forgets, those that a window of
   * the new ones reaches. Throws usage where the cache is another model's or
   * another batch's.
   */
  Sources append(
      const void* attention,
      int seen,
      const mlx::core::array& k,
      const mlx::core::array& v,
      int window = 0);

  /** It as it was when it had seen so many positions; absent where that is not
   * known any more: windows forgot, or a mixer that is no attention keeps the
   * last alone. The arrays are shared. */
  std::optional<KvCache> first(int n) const;

  /** Those of some prompts as one of a batch, for passes that put one position
   * behind each of them: all as long as the longest, empty places in front of
   * the others (`padding`). Of caches with attention alone. */
  static KvCache joined(const std::vector<KvCache>& rows);
  /** How many empty places `joined` puts in front of each. */
  static std::vector<int> padding(const std::vector<KvCache>& rows);
  /** One of a joined batch again; `padding`: its own. */
  KvCache row(int i, int padding) const;

  /** The arrays that it consists of, to be evaluated with a pass. */
  std::vector<mlx::core::array> arrays() const;

  /** What `mixer` kept of the first `held` positions of so many prompts; empty
   * where there are none yet. Throws usage likewise. */
  std::vector<mlx::core::array> kept(
      const void* mixer, int held, int batch) const;

  /** Keeps what `mixer` goes on from behind so many positions. */
  void keep(
      const void* mixer, int positions, std::vector<mlx::core::array> values);
};

}  // namespace mlxterp::nn
