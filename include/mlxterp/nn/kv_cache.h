// mlxterp/nn/kv_cache.h: the keys and values of positions already run, so that
// a prompt can go on without running them again.

#pragma once

#include <vector>

#include "mlx/array.h"

namespace mlxterp::nn {

/**
 * What each attention of one model made of the positions so far. A plain value:
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
    mlx::core::array k, v;  ///< [batch, kv_head, pos, d_head]
  };
  std::vector<Layer> layers;  ///< In the order of the pass.

  /** How many positions it holds. */
  int positions() const {
    return layers.empty() ? 0 : layers.front().k.shape(2);
  }

  /**
   * Puts new positions behind those of `attention`, of which there must be
   * `held`, and returns all of them. Throws usage where the cache is another
   * model's or another batch's.
   */
  const Layer& append(
      const void* attention,
      int held,
      const mlx::core::array& k,
      const mlx::core::array& v);
};

}  // namespace mlxterp::nn
